"""Sizes of files and of memory in words."""


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
