"""Fine-tuning on a GPU. On one that is shared, a run is worked on in tasks of a minute or two: its state goes with each
of them, and comes back every few seconds, so that a run which is stopped keeps what it had learned by then."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...common.checks import InputError
from ...common.parallel import Team, alone_on
from ...methods.presets import estimate
from ...methods.registry import find_method
from ...methods.speed import Speed, measuring
from ...models.checkpoint import Checkpoint
from ...training.events import DivergedError, Event
from ...training.tuning import Tuning
from . import gpu

LENT = {"evaluation": gpu.EVALUATION, "update": 0.012, "validation": 0.02}  # seconds a sample, generously
FIELD = 0.05  # seconds for one of the solver's, likewise
KEEP_SECONDS = 5.0
# Of a task, its beginning and its end apart.
LEAST_SECONDS, WORK_SECONDS = 15.0, gpu.LONGEST - 2 * gpu.START


def workers() -> Team:
    """Where a run of this process computes: on a GPU of its own, else on the CPU."""
    return alone_on("cuda" if torch.cuda.is_available() and not gpu.spaces else "cpu")


def speed(base: Checkpoint, config, method: str) -> Iterator[Speed | None]:
    """That of where runs are worked on, measured in pieces: `measuring`."""
    for measured in measuring(base, config, method, workers().device):
        yield replace(measured, **LENT) if gpu.spaces and measured else measured


@dataclass(frozen=True)
class Kept:
    """The content of a run's state file, and whether the run is over."""

    state: bytes
    over: bool


def share(run: Tuning) -> float:
    """Seconds for the next task of a run: what is left of it, as far as one task goes."""
    found = estimate(run.base, run.config, Speed(**LENT, graph_bytes=0, field=FIELD))
    drawn = found.pool_seconds if run.update else 0.0
    left = (found.seconds - drawn) * (1 - run.update / run.config.updates)
    return min(WORK_SECONDS, max(LEAST_SECONDS, left))


@gpu.on_gpu(lambda base, config, method, seconds, state: seconds)
def worked(base: Checkpoint, config, method: str, seconds: float, state: bytes | None) -> Iterator[Event | Kept]:
    """The events of a run, from `state` on if there is one, for so many seconds; every few of them, and last, the
    state. `base` stays as it is."""
    tuning, began = find_method(method).tuning, time.monotonic()
    team = alone_on("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="pirf-") as folder:
        path = Path(folder) / "run.state"
        if state:
            path.write_bytes(state)
        run = tuning.load(base, path, team) if state else tuning(base, config, team)

        def kept(over: bool) -> Kept:
            run.save(path)
            return Kept(path.read_bytes(), over)

        since = began
        try:
            for event in run.run():
                yield event
                now = time.monotonic()
                if now - began >= seconds:
                    yield kept(over=False)
                    return
                if now - since >= KEEP_SECONDS:
                    yield kept(over=False)
                    since = now
        except DivergedError:
            yield kept(over=True)
            raise
        yield kept(over=True)


def events(run: Tuning) -> Iterator[Event]:
    """The events of `run`, wherever it is worked on; `run` is where that work was last kept. Raises DivergedError, and
    InputError where no GPU is lent any more."""
    if not gpu.spaces:
        yield from run.run()
        return
    with tempfile.TemporaryDirectory(prefix="pirf-") as folder:
        path, over = Path(folder) / "run.state", False
        run.save(path)
        while not over:
            before = run.events
            for result in worked(run.base, run.config, run.method, share(run), path.read_bytes()):
                if isinstance(result, Kept):
                    path.write_bytes(result.state)
                    run.catch_up(path)
                    over = result.over
                else:
                    yield result
            if not over and run.events == before:
                raise InputError("a single update takes longer than a GPU is lent for: choose a smaller batch")
