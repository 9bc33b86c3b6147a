"""How fast this machine samples and fine-tunes, and in how much memory."""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..common.memory import synchronise
from ..common.parallel import alone_on
from ..evaluation.figures import draw_fields
from ..methods.pirf import PirfConfig, PirfTuning
from ..models.checkpoint import Checkpoint
from ..training.events import TuningStep

UPDATES = 3  # timed ones, after one that is not
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident(field: str) -> int | None:
    """Bytes of this process's memory, now ("VmRSS") or at most ("VmHWM"); None where the system does not say."""
    with suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return None


def _release() -> None:
    """Gives back what the C library keeps for later, which would hide the next block's demand."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def peak_memory(device: str | torch.device) -> Iterator[Callable[[], int | None]]:
    """What the block took at most, beyond what was taken before it: of a GPU's memory, or of the process's. Gives a
    function that returns the bytes, or None where that cannot be known."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    _release()
    cleared = False
    with suppress(OSError):
        CLEAR.write_text("5")  # sets the highest mark back to what is resident now
        cleared = True
    before = _resident("VmRSS")
    known = lambda: (_resident("VmHWM") or 0) - (before or 0)  # noqa: E731
    yield lambda: max(0, known()) if cleared and before is not None else None


def sampling(checkpoint: Checkpoint, steps: int, n: int, device: str | torch.device) -> dict:
    """Seconds and peak bytes for `n` samples of `steps` steps on `device`, where the model is left."""
    checkpoint.denoiser.to(device)
    draw_fields(checkpoint, 2, n, seed=0)  # what the first call sets up is not timed
    with peak_memory(device) as peak:
        start = time.perf_counter()
        _, nfe = draw_fields(checkpoint, steps, n, seed=0)
        synchronise(device)
        seconds = time.perf_counter() - start
        taken = peak()
    info = checkpoint.info
    row = {"pde": info.pde, "resolution": info.resolution, "method": info.method, "solver": info.schedule.solver}
    return row | {"steps": steps, "nfe": nfe, "n": n, "seconds": seconds, "peak_bytes": taken}


def fine_tuning(
    checkpoint: Checkpoint, last_steps: int, trainable: str, batch: int, device: str | torch.device
) -> dict:
    """Updates a second and peak bytes of PIRF with K = `last_steps` and a trained suffix of the network."""
    checkpoint.denoiser.to("cpu")
    config = PirfConfig(
        updates=UPDATES + 2,
        last_steps=last_steps,
        trainable=trainable,
        pool=batch,
        pool_steps=(last_steps + 2,),
        batch=batch,
        warmup=1,
        validate_every=10**6,
        validation=1,
    )
    run = PirfTuning(checkpoint, config, alone_on(device))
    events = (event for event in run.run() if isinstance(event, TuningStep))
    while next(events).update < 1:
        pass
    synchronise(device)
    with peak_memory(device) as peak:
        start = time.perf_counter()
        for event in events:
            if event.update == 1 + UPDATES:
                break
        synchronise(device)
        seconds, taken = time.perf_counter() - start, peak()
    info = checkpoint.info
    row = {"pde": info.pde, "resolution": info.resolution, "last_steps": last_steps, "trainable": trainable}
    return row | {"batch": batch, "updates_per_second": UPDATES / seconds, "peak_bytes": taken}
