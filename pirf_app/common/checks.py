"""Checks of what is asked for; what cannot be met is an InputError with one sentence."""

from typing import SupportsInt

MAX_SEED = 2**63 - 1
MAX_RESOLUTION = 512


class InputError(ValueError):
    """A request that cannot be met; the message is one sentence for the person who made it."""


def shown(value: object, limit: int = 40) -> str:
    """`repr(value)` on one line, cut to `limit` characters, for a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_whole(name: str, value: object, low: int, high: int) -> int:
    """`value` itself if it is a whole number from `low` to `high`. Raises InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}")
    return value


def check_number(name: str, value: object, low: float, high: float) -> float:
    """`value` itself if it is a number from `low` to `high`. Raises InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} must be a number from {low:g} to {high:g}, not {shown(value)}")
    return value


def check_seed(seed: object) -> int:
    """`seed` itself if it is a whole number from 0 to 2^63 - 1.

    Raises InputError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, not {shown(seed)}")
    return seed


def whole_number(name: str, value: object, low: int, high: int, text: bool = False) -> int:
    """`value` as an int from `low` to `high`; 10.0 counts as 10, and digits count where `text` is true."""
    limits = f"{low} to {high if high < MAX_SEED else '2^63 - 1'}"
    refusal = InputError(f"{name} must be a whole number from {limits}, not {shown(value)}")
    if text and isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 40:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value % 1:
        raise refusal
    return int(value)


def optional_number(name: str, value: object) -> float | None:
    """`value` as a float; None and empty text stand for the checkpoint's own value."""
    return None if value is None or value == "" else float(check_number(name, value, 0, 1e4))


def whole_list(name: str, value: object) -> tuple[int, ...]:
    """Whole numbers from text such as "10" or "5,10,20", or from one number or several. Raises InputError."""
    several = value.split(",") if isinstance(value, str) else value
    parts = several if isinstance(several, list | tuple) else [several]
    found = []
    try:
        for part in parts:
            if isinstance(part, bool) or not isinstance(part, str | SupportsInt):
                raise TypeError
            found.append(int(part))
            if isinstance(part, float) and part != found[-1]:
                raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} must be whole numbers separated by commas, not {shown(value)}") from None
    return tuple(found)
