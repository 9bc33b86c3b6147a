"""Checkpoints: the file format, and the folders that they are found in."""
