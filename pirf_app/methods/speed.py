"""How fast this machine tunes, and what memory that takes."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..common.checks import InputError
from ..common.parallel import alone_on
from ..diffusion.sampler import initial_noise, start
from ..models.checkpoint import Checkpoint
from ..training.config import TuningConfig
from ..training.events import DivergedError
from ..training.pretraining import PART
from .registry import DEFAULT, find_method

LONG = 0.6  # seconds for each thing that is timed
HELD_STEPS = 8  # that the graph of a measured update goes through, of all its samples together


@dataclass(frozen=True)
class Speed:
    """Seconds a sample on this machine: one network evaluation, one update, one validation, one field of the solver;
    and bytes a sample of the graph that an update keeps for its backward pass. For the recipe's trainable layers and
    last steps only."""

    evaluation: float
    update: float
    validation: float
    graph_bytes: float
    field: float = 0.0

    def shared(self, processes: int) -> "Speed":
        """The speed of so many processes together."""
        seconds = ("evaluation", "update", "validation", "field")
        return replace(self, **{name: getattr(self, name) / processes for name in seconds})


class _GraphBytes(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the memory of what a graph keeps, the weights apart."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.seen = {p.untyped_storage().data_ptr() for p in parameters}
        self.total = 0
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return x


@torch.no_grad()
def _evaluated(model: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    """One evaluation, on the CPU: a GPU is done only then."""
    return model(x, sigma).cpu()


def _quickest(work: Callable[[], Iterable]) -> Generator[None, None, float]:
    """Seconds that all of `work()` takes: the least of three, for what else the machine does comes in bursts; of fewer
    where that takes long. Yields in between."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < LONG:
        began = time.perf_counter()
        for _ in work():
            pass
        taken.append(time.perf_counter() - began)
        yield
    return min(taken)


def measure_speed(
    base: Checkpoint, config: TuningConfig, method: str = DEFAULT, device: str | torch.device = "cpu"
) -> Speed:
    """Times a few samples of `config`'s work on `device`, on states of noise: two or three seconds."""
    found = [speed for speed in measuring(base, config, method, device) if speed is not None]
    return found[-1]


def measuring(
    base: Checkpoint, config: TuningConfig, method: str = DEFAULT, device: str | torch.device = "cpu"
) -> Iterator[Speed | None]:
    """`measure_speed` in pieces of a second or so, for those who share a machine: None after each of them, and last
    what was found. No more steps of samples are held at once than a run with a small K holds of a few samples."""
    n = max(1, min(4, config.chunk, config.batch, HELD_STEPS // config.last_steps))
    few = replace(config, batch=n, validation=n, pool=max(n, len(config.pool_steps)))
    # At a rate with which nothing can diverge.
    run = find_method(method).tuning(base, replace(few, learning_rate=1e-8), alone_on(device))
    yield None
    shape = (len(run.pde.channels), base.info.resolution, base.info.resolution)
    sigma = torch.tensor(run.model.handover)
    x = start(run.model.base, initial_noise(n, shape, 0).to(device), sigma).x
    with torch.no_grad():
        sample = run.model.base(x, sigma)
    memory = torch.zeros_like(x) if config.last_steps > 1 else None
    run.validation.add(config.pool_steps[0], x=x, sample=sample, memory=memory)
    for steps in config.pool_steps:
        run.stand_in(steps, x, sample)
    graph = _GraphBytes([*run.model.parameters()])
    try:
        evaluation = yield from _quickest(lambda: _evaluated(run.model.base, x, sigma))
        yield from (None for _ in run.calibrate())
        with graph:
            deque(run.one_update(), 0)
        yield None
        update = yield from _quickest(run.one_update)
        validation = yield from _quickest(run.validate)
    except DivergedError:
        raise InputError("the model that the run would start from gives values that are not finite") from None
    data = 0.0
    if config.learns_from_data:
        data = yield from _quickest(lambda: run.pde.generate(PART, base.info.resolution, 0))
    yield Speed(evaluation / n, update / n, validation / n, graph.total / n, data / PART)
