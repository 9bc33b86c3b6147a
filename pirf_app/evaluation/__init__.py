"""From fields to figures, reports and verdicts."""
