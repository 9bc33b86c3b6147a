"""Training data made once, on every processor core, and kept in a file: for a tier whose GPU learns faster than the
solver draws.

The file is one array of normalised fields with a note of how much of it is there, so a run that was killed goes on
where it stopped, and the next run finds it whole. What part k of it holds depends on the seed and k alone.
"""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..common.checks import InputError
from ..common.files import write_json
from ..evaluation.statistics import REFERENCE_SEED, Statistics
from ..pdes import PDE, get_pde
from ..training.pretraining import training_data

PART = 32  # fields a task; a whole trajectory of Kolmogorov flow, and whole batches of Burgers' solver


def made(pde: str, resolution: int, seed: int, part: int) -> np.ndarray:
    """Part number `part` of the training data: normalised fields `[PART, c, N, N]` float32."""
    return training_data(get_pde(pde), PART, resolution, seed, part).numpy()


def held_out(pde: str, resolution: int, part: int) -> np.ndarray:
    """Fields in physical units `[PART, c, N, N]` from seeds that training cannot draw."""
    return get_pde(pde).generate(PART, resolution, REFERENCE_SEED * 10**6 + part).numpy()


def in_processes(task, jobs: list[tuple], workers: int) -> Iterator:
    """`task(*job)` for every job, in their order, in `workers` processes of one thread each (1: in this one)."""
    if workers == 1:
        yield from (task(*job) for job in jobs)
        return
    fresh = multiprocessing.get_context("spawn")  # a forked copy of a process that has used torch may hang
    pool = ProcessPoolExecutor(workers, fresh, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(task, *zip(*jobs, strict=True))
    except BrokenProcessPool:
        raise InputError(f"one of {workers} solver processes died, for want of memory perhaps: use fewer") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class DataFile:
    """`parts * PART` normalised fields of a PDE in the file `path`, with its note beside it."""

    def __init__(self, path: Path, pde: PDE, resolution: int, seed: int, parts: int):
        self.path, self.note = path, path.with_suffix(".json")
        self.pde, self.resolution, self.seed, self.parts = pde, resolution, seed, parts
        self.about = {"pde": pde.name, "resolution": resolution, "seed": seed, "parts": parts}
        self.about |= {"normalisation": pde.normalisation()}

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts * PART, len(self.pde.channels), self.resolution, self.resolution

    def done(self) -> int:
        """Parts that are there; 0 for another run's file."""
        try:
            note = json.loads(self.note.read_text())
            whole = note["about"] == self.about and np.load(self.path, mmap_mode="r").shape == self.shape
            return note["done"] if whole else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def fill(self, workers: int) -> Iterator[int]:
        """Makes what is missing; yields how many parts there are after each."""
        done = self.done()
        if done == self.parts:
            return
        mode = "r+" if done else "w+"
        fields = np.lib.format.open_memmap(self.path, mode, np.float32, None if done else self.shape)
        jobs = [(self.pde.name, self.resolution, self.seed, part) for part in range(done, self.parts)]
        for part in in_processes(made, jobs, workers):
            fields[done * PART : (done + 1) * PART] = part
            fields.flush()
            done += 1
            self._write_note(done)
            yield done

    def _write_note(self, done: int) -> None:
        write_json(self.note, {"about": self.about, "done": done})

    def load(self) -> Tensor:
        """The parts that are there, `[n, c, N, N]`."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c")[: self.done() * PART])


def write_statistics(path: Path, pde: PDE, resolution: int, parts: int, workers: int) -> None:
    """Statistics of `parts * PART` held-out fields, which evaluation compares with."""
    jobs = [(pde.name, resolution, part) for part in range(parts)]
    fields = np.concatenate(list(in_processes(held_out, jobs, workers)))
    Statistics.of(pde, torch.from_numpy(fields)).save(path)
