"""What every fine-tuning run is, whatever its objective: weights that start from a checkpoint, their average, the last
and the best state, events, files."""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from math import isclose
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..common.checks import InputError, shown
from ..common.parallel import ALONE, Team
from ..diffusion import denoiser
from ..diffusion.guidance import GuidedDenoiser
from ..diffusion.two_stage import TunedDenoiser
from ..models.checkpoint import Checkpoint, CheckpointInfo, save_checkpoint
from ..pdes import PDE
from .config import TuningConfig
from .events import DivergedError, Event, TuningStep
from .optimisation import Optimisation, lay_out
from .run_state import load_run, of_this_version

STATES = ("last", "best")


class Tuning(Optimisation):
    """State of a run that starts from a checkpoint, a base one or a tuned one, and tunes the steps from the noise level
    `first_level` on. Iterate `run()`; `save`/`load` resume it; `result` is the tuned model, `export` writes it.

    With a team of several processes each takes its share of every batch, and all end with the same weights. A method
    gives its name, its config class and the events of a run. Raises InputError for a recipe that does not fit."""

    method: str
    config_class: type[TuningConfig]
    kind, mark = "fine-tuning", "parent"
    kept = (*Optimisation.kept, "checks", "unreported")

    def __init__(self, base: Checkpoint, config: TuningConfig, workers: Team = ALONE):
        self.base, self.config = base, config
        self.pde: PDE = base.problem
        if isinstance(base.denoiser, GuidedDenoiser):
            raise InputError(f"{base.info.method} is a way to sample the baseline: start from base")
        tuned = base.denoiser if isinstance(base.denoiser, TunedDenoiser) else None
        handover = self.first_level()
        if tuned and not isclose(handover, tuned.handover, rel_tol=1e-5):
            raise InputError(
                f"the checkpoint was tuned from noise level {tuned.handover:.3g} on, and a run that goes on "
                f"from it must do the same, not {handover:.3g}: choose its last_steps and pool_steps"
            )
        self.frozen = base.base_denoiser
        self.model = TunedDenoiser(deepcopy(self.frozen), handover).to(workers.device)
        if tuned:
            self.model.expert.load_state_dict(tuned.expert.state_dict())
        self.model.autocast = denoiser.native_bfloat16(workers.device) or self.frozen.autocast
        self.model.base.requires_grad_(False)
        # torch 2.13 crashes in the backward pass of a partly frozen network in channels_last on the CPU.
        lay_out(self.model.expert, torch.contiguous_format)
        parameters = self.model.expert.network.freeze(config.trainable)
        self.start, average = ([p.detach().clone() for p in parameters] for _ in range(2))
        super().__init__(parameters, average, config.learning_rate, workers)
        self.best: list[Tensor] | None = None
        self.checks: dict[str, dict] = {}
        # Events so far, and how many of them there were when what `save` keeps last changed: those that come after
        # are repeated by a run that goes on from the file.
        self.events = self.settled = 0
        self.unreported: tuple[float, float, float, float, float] | None = None
        self._finite: tuple[list[Tensor], list[Tensor]] | None = None

    @abstractmethod
    def first_level(self) -> float:
        """The noise level that the tuned weights take over at: the handover."""

    @abstractmethod
    def _events(self) -> Iterator[Event]:
        """The events of a run, seconds left out."""

    @abstractmethod
    def drawn(self) -> dict[str, Tensor]:
        """What the run has drawn to learn from and to be measured on, by name, for a file."""

    @abstractmethod
    def take_drawn(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `drawn` gave; there may be more in `tensors`."""

    def run(self) -> Iterator[Event]:
        """Draws what the run needs, measures the starting model (update 0), then yields after every update, and in
        between where that takes long. `seconds` counts the work alone, not what the caller does between two events.
        Raises DivergedError where the loss stops being finite; what the run holds then are the last weights whose loss
        was."""
        began = time.perf_counter()
        for event in self._events():
            self.seconds += time.perf_counter() - began
            self.events += 1
            if isinstance(event, TuningStep):
                self.settled = self.events
            yield replace(event, seconds=self.seconds)
            began = time.perf_counter()

    @torch.no_grad()
    def step(self) -> float:
        self._finite = [p.clone() for p in self.parameters], [p.clone() for p in self.average]
        return super().step()

    def retention(self) -> float:
        return min(self.config.ema, 1 - 1 / (1 + self.update))

    def _diverged(self, number: int) -> DivergedError | InputError:
        """What to raise at update `number`; takes back the one that led there."""
        if number == 0:
            return InputError("the model that the run would start from gives fields that are not finite")
        if self._finite is not None:
            with torch.no_grad():
                for tensors, kept in zip((self.parameters, self.average), self._finite, strict=True):
                    for tensor, value in zip(tensors, kept, strict=True):
                        tensor.copy_(value)
            self.update, self._finite, self.unreported = self.update - 1, None, None
        return DivergedError(f"tuning diverged at update {number}: try a lower learning rate")

    @torch.no_grad()
    def _expert(self, weights: Sequence[Tensor]) -> denoiser.Denoiser:
        expert = deepcopy(self.model.expert).eval()
        for parameter, value in zip((p for p in expert.parameters() if p.requires_grad), weights, strict=True):
            parameter.copy_(value)
        return expert.requires_grad_(False)

    def result(self, which: str = "last") -> TunedDenoiser:
        """The tuned model with the averaged weights, of the last state or the best: the base model that the run began
        with, and its own copy of the tuned part. Raises InputError where there is no such state."""
        if which not in STATES:
            raise InputError(f"the state must be one of {', '.join(STATES)}, not {shown(which)}")
        if which == "best" and self.best is None:
            raise InputError("there is no best state before the first validation")
        weights = self.best if which == "best" and self.best is not None else self.average
        expert = self._expert(weights).to(next(self.frozen.parameters()))
        expert.autocast = self.frozen.autocast
        return TunedDenoiser(self.frozen, self.model.handover, expert)

    def info(self, figures: dict | None = None, which: str = "last") -> CheckpointInfo:
        """Metadata of the tuned checkpoint. Its parent is the base model, even where the run began with a tuned one."""
        begun = self.base.info
        recipe = {"config": asdict(self.config), "updates": self.update, "state": which}
        recipe |= {"checks": {name: self.checks[name] for name in ("start", which) if name in self.checks}}
        if begun.parent is not None:
            recipe["began_with"] = self.base.sha256
        parent = begun.parent or self.base.sha256
        changed = replace(begun, method=self.method, parent=parent, handover=self.model.handover, recipe=recipe)
        return replace(changed, figures=figures or {})

    def export(self, path: Path, figures: dict | None = None, which: str = "last") -> str:
        """Writes the tuned checkpoint, the last state or the best, and returns its SHA-256. Raises InputError before
        the first update."""
        if self.update == 0:
            raise InputError("nothing has been tuned yet, so there is nothing to write")
        return save_checkpoint(path, self.result(which), self.info(figures, which))

    def _weights(self) -> dict[str, Sequence[Tensor]]:
        return {"parameter": self.parameters, "average": self.average, "best": self.best or []}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{name}.{i}": p for name, values in self._weights().items() for i, p in enumerate(values)}
        return tensors | self.drawn()

    def _meta(self) -> dict[str, Any]:
        meta = {"method": self.method, "config": asdict(self.config), "parent": self.base.sha256}
        return meta | {name: getattr(self, name) for name in self.kept} | {"events": self.settled}

    @classmethod
    def load(cls, base: Checkpoint, path: Path, workers: Team = ALONE) -> Self:
        """The run that `save` wrote. Raises InputError if it cannot be continued from this checkpoint."""
        tensors, optimiser, meta = cls._read(path)
        if meta["parent"] != base.sha256:
            raise InputError(f"{path} is a run on another base checkpoint")
        with of_this_version(path):
            if meta["method"] != cls.method:
                raise InputError(f"{path} is a run of the method {shown(meta['method'])}, not {cls.method}")
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["config"].items()}
            run = cls(base, cls.config_class(**values), workers)
            run._take(tensors, optimiser, meta)
        return run

    def catch_up(self, path: Path) -> None:
        """Goes to where the same run has got to elsewhere, by the file that it saved there."""
        with of_this_version(path):
            self._take(*load_run(path))

    @torch.no_grad()
    def _take(self, tensors: dict[str, Tensor], optimiser: dict[int, dict[str, Tensor]], meta: dict[str, Any]) -> None:
        self.best = [p.clone() for p in self.start] if "best.0" in tensors else None
        for name, values in self._weights().items():
            for i, value in enumerate(values):
                value.copy_(tensors[f"{name}.{i}"])
        self.take_drawn(tensors)
        super()._take(tensors, optimiser, meta)
        self.events = self.settled = meta["events"]
