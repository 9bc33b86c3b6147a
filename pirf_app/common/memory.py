"""How much memory may still be taken, returning what was freed, and waiting for a device."""

import contextlib
import ctypes
from pathlib import Path

import torch


def free_memory() -> float:
    """Bytes that may still be taken: of the machine, and of a container's limit."""
    found = [float("inf")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found)


def return_freed_memory() -> None:
    """To the system: glibc keeps it for the thread that freed it, and a server has many. A few trainings, each on
    another thread, would keep gigabytes."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc here
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def synchronise(device: str | torch.device) -> None:
    """Waits until what was asked of `device` is done: a GPU's work is only queued."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
