"""Waiting for what another thread or process does, however slow the machine is."""

import time
from collections.abc import Callable

FOR_EVER = 300.0  # seconds


def eventually(condition: Callable[[], object]) -> None:
    """Returns once `condition()` holds."""
    end = time.monotonic() + FOR_EVER
    while not condition():
        assert time.monotonic() < end, "this will not happen any more"
        time.sleep(0.02)
