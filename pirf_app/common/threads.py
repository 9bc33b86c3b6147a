"""How many threads suit this process: by the cores that it may use, and by what else runs on them now."""

import contextlib
import os
import statistics
import time
from pathlib import Path

LOADS = Path("/proc/loadavg")
LOOKS, PAUSE = 5, 0.004  # at what runs now, and seconds between two: a single look sees what runs for a moment only


def usable_cores() -> int:
    """Cores that this process may use: a container's quota can be far below what the machine has, and OMP_NUM_THREADS
    asks for fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    with contextlib.suppress(KeyError, ValueError):
        cores = min(cores, max(1, int(os.environ["OMP_NUM_THREADS"])))
    return cores


def others_running() -> float:
    """Threads of any process that want a core now, without this one; 0 where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for look in range(LOOKS):
            if look:
                time.sleep(PAUSE)
            found.append(int(LOADS.read_text().split()[3].split("/")[0]) - 1)
    return statistics.median(found) if found else 0


def suitable_threads() -> int:
    """All usable cores where one is free, else one thread: with others on every core, threads that wait for each other
    take longer together than one alone."""
    cores = usable_cores()
    return cores if others_running() < cores else 1
