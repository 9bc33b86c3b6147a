"""Who is here, who computes when, and on what."""
