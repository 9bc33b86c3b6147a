"""The Train tab: a fine-tuning run, watched while it works."""
