"""Shares, ratios, times and sizes in words."""


def percent(value: float) -> str:
    if 0 < value < 1e-5:
        return "<0.001 %"
    return f"{100 * value:.1f} %" if value >= 0.0095 else f"{100 * value:.2g} %"


def duration(seconds: float) -> str:
    """4 s, 1 min 05 s, 1 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
