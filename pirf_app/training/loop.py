"""The loop of a fine-tuning run, whatever its objective: draw, update, and measure on held-out noise."""

import math
from abc import abstractmethod
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from ..common.parallel import ALONE, Team
from ..common.streams import BATCHES, VALIDATION_NOISE, derived_seed
from ..diffusion import denoiser
from ..diffusion.sampler import Schedule, State, advance, initial_noise
from ..evaluation.figures import SAME, flags, residual_rms
from ..models.checkpoint import Checkpoint
from ..pdes.stencils import rms
from .config import TuningConfig
from .events import Event, PoolStep, TuningStep, Working
from .handover import Handovers, draw
from .optimisation import scheduled
from .tuning import Tuning

FIGURE = {"validation_residual": "residual_rms", "validation_solve_error": "solve_error_median"}


class TuningLoop(Tuning):
    """A run whose tuned weights make the last K steps of a trajectory. The frozen model takes held-out noise down to
    there once; every validation goes on from those states. A method says what it draws to learn from, and what an
    update makes of a batch of it."""

    def __init__(self, base: Checkpoint, config: TuningConfig, workers: Team = ALONE):
        super().__init__(base, config, workers)
        self.validation = Handovers()

    def first_level(self) -> float:
        return max(self.schedule(n).sigmas()[-1 - self.config.last_steps].item() for n in self.config.pool_steps)

    @abstractmethod
    def draw_pool(self) -> Iterator[PoolStep]:
        """Draws what is missing of the pool."""

    @abstractmethod
    def calibrate(self) -> Iterator[Working]:
        """Finds the units of the objective, from the pool and the model before tuning."""

    @abstractmethod
    def batch(self, chance: torch.Generator) -> Any:
        """What the next update learns from."""

    @abstractmethod
    def objective(self, batch: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of some rows of a batch: what to descend, `[]`, and `[3]` to tell, without a graph: loss, anchor and mean
        square residual, as in `TuningStep`. Means over the rows."""

    @abstractmethod
    def held_out(self, ends: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and anchor of samples from held-out noise, and from the same noise before tuning, in normalised units
        `[n, c, N, N]`."""

    @abstractmethod
    def stand_in(self, steps: int, x: Tensor, sample: Tensor) -> None:
        """Fills the pool with a few states and samples `[n, c, N, N]`, good enough to time an update with."""

    def drawn(self) -> dict[str, Tensor]:
        return self.validation.tensors("validation")

    def take_drawn(self, tensors: dict[str, Tensor]) -> None:
        self.validation = Handovers.read("validation", tensors, self.workers.device)

    def schedule(self, steps: int) -> Schedule:
        return self.base.info.schedule.with_steps(steps)

    def _events(self) -> Iterator[Event]:
        c = self.config
        if not self.events:
            yield PoolStep(0, c.validation + c.pool, 0.0)
        yield from self.draw_handovers(self.validation, c.validation, VALIDATION_NOISE, 0)
        yield from self.draw_pool()
        yield from self.calibrate()
        if "start" not in self.checks:
            loss, anchor = yield from self.validate()
            check = self.checks["start"] = self.checks["last"]
            measured = (loss, check["residual_rms"], anchor, 0.0, 0.0, 0.0)
            yield TuningStep(0, c.updates, *measured, check["residual_rms"], check["solve_error_median"])
        while self.unreported or self.update < c.updates:
            if not self.unreported:
                yield from self.one_update()
            yield from self._report()

    def draw_handovers(self, found: Handovers, n: int, purpose: int, before: int) -> Iterator[PoolStep]:
        """Fills `found` with handover states of `n` trajectories, shared out over the step counts."""
        c, size = self.config, self.base.info.resolution
        noise = initial_noise(n, (len(self.pde.channels), size, size), derived_seed(c.seed, purpose))
        schedules = [self.schedule(steps) for steps in c.pool_steps]
        for done, grown in draw(found, self.model.base, noise, schedules, c.last_steps, c.chunk, self.workers):
            if grown:
                self.settled = self.events + 1
            yield PoolStep(before + done, c.validation + c.pool, 0.0)

    def finish(self, state: State, steps: int, expert: denoiser.Denoiser | None = None) -> Tensor:
        """The expert's last K steps from handover states of a trajectory of `steps` steps; differentiable.

        The frozen part of the network builds no graph, so with K above 1 the gradient that reaches an earlier step
        through the network's input stops at the first trained layer; what flows through the skip remains."""
        schedule = self.schedule(steps)
        levels = schedule.sigmas().to(state.x)
        for i in range(steps - self.config.last_steps, steps):
            state, _ = advance(expert or self.model.expert, state, schedule, levels, i)
        return state.x

    def learning_rate(self) -> float:
        c = self.config
        return scheduled(c.learning_rate, (self.update + 1) / c.warmup, math.pi * self.update / c.updates)

    def one_update(self) -> Iterator[Working]:
        c, number = self.config, self.update + 1
        batch = self.batch(torch.Generator().manual_seed(derived_seed(c.seed, BATCHES, self.update)))
        self.optimiser.zero_grad()
        told, done = torch.zeros(3, device=self.workers.device), 0
        for rows in self.workers.share(torch.arange(c.batch)).split(c.chunk):
            if done:
                yield Working(number, done * self.workers.size, c.batch, 0.0)
            if not len(rows):
                continue
            weight = len(rows) / c.batch
            loss, parts = self.objective(batch, rows)
            (weight * loss).backward()
            told += weight * parts
            done += len(rows)
        self.workers.add(self.parameters, told)
        changes = ((p - q).square().sum() for p, q in zip(self.parameters, self.start, strict=True))
        change = sum(changes, start=torch.zeros((), device=self.workers.device))
        change = change / sum(p.numel() for p in self.parameters)
        (c.drift * change).backward()
        norm = self.clip(c.clip)
        loss, anchor, square = told.tolist()
        if not all(map(math.isfinite, (loss, anchor, change.item(), norm.item()))):
            raise self._diverged(number)
        rate = self.step()
        self.unreported = (loss, math.sqrt(square), anchor, math.sqrt(change.item()), rate)
        self.settled = self.events

    def _report(self) -> Iterator[Working | TuningStep]:
        """Validates where it is time to, and ends the update with its event."""
        c, check = self.config, dict[str, Any]()
        assert self.unreported is not None  # an update was made
        if self.update % c.validate_every == 0 or self.update == c.updates:
            yield from self.validate()
            check, figure = self.checks["last"], FIGURE[c.best_by]
            if self.best is None or check[figure] < self.checks["best"][figure]:
                self.best, self.checks["best"] = [p.clone() for p in self.average], check
        measured, self.unreported = self.unreported, None
        figures = (check.get("residual_rms"), check.get("solve_error_median"), check.get("warning"))
        loss, residual, anchor, change, rate = measured
        yield TuningStep(self.update, c.updates, loss, residual, anchor, change, rate, 0.0, *figures)

    @torch.no_grad()
    def validate(self) -> Generator[Working, None, tuple[float, float]]:
        """Measures the averaged weights on held-out noise: `checks["last"]`, a row as `flags` takes it. Returns the
        mean loss and anchor."""
        c, expert, done = self.config, self._expert(self.average), 0
        parts: list[Tensor] = []
        expert.autocast = False  # else what a machine computes fast decides which state is the best
        for steps, x in self.validation.x.items():
            for rows in self.workers.share(torch.arange(len(x))).split(c.chunk):
                if done:
                    yield Working(self.update, done * self.workers.size, c.validation, 0.0)
                if len(rows) == 0:
                    continue
                ends = self.finish(self.validation.state(steps, rows), steps, expert)
                parts.append(self._measured(ends, self.validation.sample[steps][rows]))
                done += len(rows)
        measured = torch.cat(self.workers.gather([part.cpu() for part in parts]))
        loss, anchor, residual, second, error = measured.unbind(1)
        row = {"update": self.update, "residual_rms": residual.square().mean().sqrt().item()}
        row |= {"second_residual_rms": second.square().mean().sqrt().item()}
        row |= {"solve_error_median": error.quantile(0.5).item()}
        if not all(map(math.isfinite, row.values())):
            raise self._diverged(self.update)
        # The medians of n samples before and after scatter by about this much, although their noise is the same.
        same = max(SAME, 0.15 / math.sqrt(c.validation))
        found = flags(row, self.checks.get("start", row), {"residual_rms": 0.0}, same)
        self.checks["last"] = row | {"warning": "; ".join(found) or None}
        return loss.mean().item(), anchor.mean().item()

    def _measured(self, ends: Tensor, before: Tensor) -> Tensor:
        """`[n, 5]` for `validate`: loss and anchor (means over the n), residual, residual by the other stencil,
        forward-solve error; not a number where a field is not finite, which no solver should be given."""
        fields = self.pde.denormalise(ends)
        if not fields.isfinite().all():
            return torch.full((len(ends), 5), math.nan, device=ends.device)
        loss, anchor = self.held_out(ends, before)
        second = rms(self.pde.interior(self.pde.second_residual(fields)))
        columns = (residual_rms(self.pde, fields), second, self.pde.solve_error(fields))
        return torch.stack([loss.expand(len(ends)), anchor.expand(len(ends)), *columns], 1)

    @torch.no_grad()
    def preview(self, n: int = 4) -> tuple[Tensor, Tensor] | None:
        """Fields `[k, c, N, N]` (physical units, on the CPU) of the first k <= n held-out trajectories, by the base
        model and with the averaged weights; None before they are drawn."""
        if not len(self.validation):
            return None
        steps, rows = next(iter(self.validation.x)), slice(0, n)
        after = self.finish(self.validation.state(steps, rows), steps, self._expert(self.average))
        before = self.validation.sample[steps][rows]
        return self.pde.denormalise(before).cpu(), self.pde.denormalise(after).cpu()
