"""What every training run does with its gradients, whatever its objective: Adam at a learning rate that ramps up and
decays, clipping, the average of the weights; and how its state comes to a file and back."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..common.checks import InputError
from ..common.parallel import Team
from .run_state import load_run, restore, save_run


def scheduled(rate: float, ramp: float, angle: float) -> float:
    """The learning rate `rate`, of which `ramp` is reached (1 or more: all), decayed by a cosine: `angle` is 0 at the
    start of a run and pi at its end."""
    return rate * min(1.0, ramp) * (0.5 + 0.5 * math.cos(angle))


def lay_out(network: nn.Module, order: torch.memory_format) -> None:
    """Puts the weights into memory in that order."""
    network.to(memory_format=order)  # type: ignore[call-overload]  # torch's stubs leave this form out


class Optimisation(ABC):
    """Weights that are trained, and their average. With a team of several processes each takes its share of every
    batch, and all end with the same weights."""

    kind: ClassVar[str]  # of its runs, in words
    mark: ClassVar[str]  # what a file says of such a run, and of no other kind
    kept: ClassVar[tuple[str, ...]] = ("update", "seconds")  # attributes that go to a file as JSON

    def __init__(self, parameters: list[nn.Parameter], average: Sequence[Tensor], rate: float, workers: Team):
        self.parameters, self.average, self.workers = parameters, average, workers
        self.optimiser = torch.optim.Adam(parameters, rate, betas=(0.9, 0.99))
        self.update = 0
        self.seconds = 0.0

    @abstractmethod
    def learning_rate(self) -> float:
        """That of the next update."""

    @abstractmethod
    def retention(self) -> float:
        """The share of itself that the average keeps at an update that has just been made."""

    def clip(self, limit: float) -> Tensor:
        """Scales the gradients down to a norm of `limit`; the norm before that, `[]`."""
        return nn.utils.clip_grad_norm_(self.parameters, limit)

    def step(self) -> float:
        """One step of the optimiser and of the average; the learning rate that it was made at."""
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.update += 1
        self._average()
        return rate

    @torch.no_grad()
    def _average(self) -> None:
        keep = self.retention()
        for averaged, current in zip(self.average, self.parameters, strict=True):
            averaged.lerp_(current, 1 - keep)

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """What a file keeps of the run beside the optimiser's state, by name."""

    @abstractmethod
    def _meta(self) -> dict[str, Any]:
        """What it keeps as JSON; `kept` and `mark` are among it."""

    def save(self, path: Path) -> None:
        """Everything that `load` needs, replaced atomically."""
        save_run(path, self._tensors(), self.optimiser, self._meta())

    @classmethod
    def _read(cls, path: Path) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]], dict[str, Any]]:
        """What `save` wrote, for `_take`. Raises InputError for another file."""
        tensors, optimiser, meta = load_run(path)
        if cls.mark not in meta:
            raise InputError(f"{path} is not the state of a {cls.kind} run")
        return tensors, optimiser, meta

    def _take(self, tensors: dict[str, Tensor], optimiser: dict[int, dict[str, Tensor]], meta: dict[str, Any]) -> None:
        """Goes to where a file says that the run is."""
        for name in self.kept:
            setattr(self, name, meta[name])
        restore(self.optimiser, optimiser)
