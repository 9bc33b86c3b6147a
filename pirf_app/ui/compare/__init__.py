"""The Compare tab: several models from the same noise, side by side."""
