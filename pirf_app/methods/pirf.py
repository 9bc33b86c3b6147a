"""PIRF: physics-informed reward fine-tuning (Yuan et al., arXiv 2509.20570).

The reward sees the final sample only (trajectory level, no value function); its gradient goes back through the last K
sampler steps (truncation in time, as DRaFT-K) and into a suffix of the decoder (truncation in layers), while the
weights are held near the pretrained ones.

Two things go beyond the paper. The trained steps use a tuned copy of the network and all others the frozen one, so the
states at the handover do not change during tuning: a pool of them is drawn once and an update costs K steps. And the
solver's inputs (coefficient, source) are anchored to what the frozen model makes of the same state: the residual's
gradient reaches only the solution channels, else the model learns to shrink the source.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..checkpoints import Checkpoint
from ..diffusion import denoiser
from ..diffusion.sampler import Schedule, State, advance, initial_noise
from ..evaluation import SAME, flags, residual_rms
from ..parallel import ALONE, Team
from ..pdes.random_fields import BATCHES, POOL_NOISE, VALIDATION_NOISE, derived_seed
from ..pdes.stencils import rms
from .handover import Handovers, draw
from .pirf_config import PirfConfig, PirfStep, PoolStep, Working
from .rewards import ResidualReward
from .tuning import Event, Tuning

FIGURE = {"validation_residual": "residual_rms", "validation_solve_error": "solve_error_median"}


class PirfTuning(Tuning):
    """A PIRF run: a pool of handover states, the reward, and updates of the expert on batches of the pool."""

    method, config_class = "pirf", PirfConfig

    def __init__(self, base: Checkpoint, config: PirfConfig, workers: Team = ALONE):
        sigmas = [base.info.schedule.with_steps(steps).sigmas() for steps in config.pool_steps]
        super().__init__(base, config, max(levels[-1 - config.last_steps].item() for levels in sigmas), workers)
        self.reward: ResidualReward | None = None

    def _schedule(self, steps: int) -> Schedule:
        return self.base.info.schedule.with_steps(steps)

    def _events(self) -> Iterator[Event]:
        c = self.config
        if not self.events:
            yield PoolStep(0, c.validation + c.pool, 0.0)
        yield from self._draw(self.validation, c.validation, VALIDATION_NOISE, 0)
        yield from self._draw(self.pool, c.pool, POOL_NOISE, c.validation)
        self.calibrate()
        if "start" not in self.checks:
            loss, anchor = yield from self.validate()
            check = self.checks["start"] = self.checks["last"]
            measured = (loss, check["residual_rms"], anchor, 0.0, 0.0, 0.0)
            yield PirfStep(0, c.updates, *measured, check["residual_rms"], check["solve_error_median"])
        while self.unreported or self.update < c.updates:
            if not self.unreported:
                yield from self.one_update()
            yield from self._report()

    def calibrate(self) -> None:
        """The units of reward and anchor, from the pool."""
        before = torch.cat(list(self.pool.sample.values()))
        self.input_scale = self._input_scale()
        fields, c = self.pde.denormalise(before), self.config
        self.reward = ResidualReward.calibrated(self.pde, fields, c.norm, c.error_weight)

    def _draw(self, found: Handovers, n: int, purpose: int, before: int) -> Iterator[PoolStep]:
        """Fills `found` with handover states of `n` trajectories, shared out over the pool's step counts."""
        c, size = self.config, self.base.info.resolution
        noise = initial_noise(n, (len(self.pde.channels), size, size), derived_seed(c.seed, purpose))
        schedules = [self._schedule(steps) for steps in c.pool_steps]
        for done, grown in draw(found, self.model.base, noise, schedules, c.last_steps, c.chunk, self.workers):
            if grown:
                self.settled = self.events + 1
            yield PoolStep(before + done, c.validation + c.pool, 0.0)

    def finish(self, state: State, steps: int, expert: denoiser.Denoiser | None = None) -> Tensor:
        """The expert's last K steps from handover states of a trajectory of `steps` steps; differentiable.

        The frozen part of the network builds no graph, so with K above 1 the gradient that reaches an earlier step
        through the network's input stops at the first trained layer; what flows through the skip remains."""
        schedule = self._schedule(steps)
        levels = schedule.sigmas().to(state.x)
        for i in range(steps - self.config.last_steps, steps):
            state, _ = advance(expert or self.model.expert, state, schedule, levels, i)
        return state.x

    def _loss(self, state: State, before: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._terms(self.finish(state, steps), before)

    def _terms(self, ends: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the samples that tuning makes and those of before: the reward's loss, the change of the inputs, the change
        in the second norm (0 where nothing is held), and the fields `[n, c, N, N]` that the reward saw."""
        sample, kept = (self.pde.denormalise(x) for x in (ends, before))
        mixed = self.pde.hold_inputs(sample, kept)
        moved = self.pde.inputs(sample) - self.pde.inputs(kept)
        held = self.reward.moved(mixed, kept) if self.config.hold else moved.new_zeros(())
        return self.reward.loss(mixed), (moved / self.input_scale).square().mean(), held, mixed

    def _input_scale(self) -> Tensor:
        """The linear estimate's RMS error in the solver's inputs at the handover, in physical units."""
        c, resolution = len(self.pde.channels), self.base.info.resolution
        white = torch.randn(16, c, resolution, resolution, generator=torch.Generator().manual_seed(0))
        white = white.to(self.workers.device)
        error = self.model.base.prior.scale(white, torch.full((16,), self.model.handover).to(white))
        parts = (self.pde.inputs(self.pde.denormalise(x)) for x in (error, torch.zeros_like(error)))
        return (next(parts) - next(parts)).square().mean().sqrt()

    def learning_rate(self) -> float:
        c = self.config
        ramp = min(1.0, (self.update + 1) / c.warmup)
        return c.learning_rate * ramp * (0.5 + 0.5 * math.cos(math.pi * self.update / c.updates))

    def one_update(self) -> Iterator[Working]:
        c, number = self.config, self.update + 1
        chance = torch.Generator().manual_seed(derived_seed(c.seed, BATCHES, self.update))
        steps = c.pool_steps[self.update % len(c.pool_steps)]
        rows = torch.randint(len(self.pool.x[steps]), (c.batch,), generator=chance)
        k = int(torch.randint(self.pde.symmetries, (1,), generator=chance))
        # The solver's memory is in units of the network's output, which have no offset.
        memory = lambda m: None if m is None else self.pde.transform(m, k)  # noqa: E731
        self.optimiser.zero_grad()
        terms, done = torch.zeros(3, device=self.workers.device), 0
        for part in self.workers.share(rows).split(c.chunk):
            if done:
                yield Working(number, done * self.workers.size, c.batch, 0.0)
            state, weight = self.pool.state(steps, part), len(part) / c.batch
            if not weight:
                continue
            reward_loss, anchor, held, fields = self._loss(
                State(self.pde.turned(state.x, k), memory(state.memory)),
                self.pde.turned(self.pool.sample[steps][part], k),
                steps,
            )
            (weight * (reward_loss + c.anchor * anchor + c.hold * held)).backward()
            square = residual_rms(self.pde, fields.detach()).square().mean()
            terms += weight * torch.stack([reward_loss.detach(), anchor.detach(), square])
            done += len(part)
        self.workers.add(self.parameters, terms)
        reward_loss, anchor, square = terms.tolist()
        change = sum((p - q).square().sum() for p, q in zip(self.parameters, self.start, strict=True))
        change = change / sum(p.numel() for p in self.parameters)
        (c.drift * change).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, c.clip)
        if not math.isfinite(reward_loss + c.anchor * anchor + c.drift * change.item() + norm.item()):
            raise self._diverged(number)
        rate = self.learning_rate()
        self._step(rate)
        self.unreported = (reward_loss, math.sqrt(square), anchor, math.sqrt(change.item()), rate)
        self.settled = self.events

    def _report(self) -> Iterator[Working | PirfStep]:
        """Validates where it is time to, and ends the update with its event."""
        c, check = self.config, {}
        if self.update % c.validate_every == 0 or self.update == c.updates:
            yield from self.validate()
            check, figure = self.checks["last"], FIGURE[c.best_by]
            if self.best is None or check[figure] < self.checks["best"][figure]:
                self.best, self.checks["best"] = [p.clone() for p in self.average], check
        measured, self.unreported = self.unreported, None
        figures = (check.get("residual_rms"), check.get("solve_error_median"), check.get("warning"))
        yield PirfStep(self.update, c.updates, *measured, 0.0, *figures)

    @torch.no_grad()
    def validate(self) -> Iterator[Working]:
        """Measures the averaged weights on held-out noise: `checks["last"]`, a row as `flags` takes it. Returns the
        mean loss and change of the inputs."""
        c, expert, done, found = self.config, self._expert(self.average), 0, []
        expert.autocast = False  # else what a machine computes fast decides which state is the best
        for steps, x in self.validation.x.items():
            for rows in self.workers.share(torch.arange(len(x))).split(c.chunk):
                if done:
                    yield Working(self.update, done * self.workers.size, c.validation, 0.0)
                if len(rows) == 0:
                    continue
                ends = self.finish(self.validation.state(steps, rows), steps, expert)
                found.append(self._measured(ends, self.validation.sample[steps][rows]))
                done += len(rows)
        found = torch.cat(self.workers.gather([part.cpu() for part in found]))
        loss, anchor, residual, second, error = found.unbind(1)
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
        """`[n, 5]` for `validate`: loss and change of the inputs (means over the n), residual, residual by the other
        stencil, forward-solve error; not a number where a field is not finite, which no solver should be given."""
        fields = self.pde.denormalise(ends)
        if not fields.isfinite().all():
            return torch.full((len(ends), 5), math.nan, device=ends.device)
        loss, anchor, *_ = self._terms(ends, before)
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
        return tuple(self.pde.denormalise(x).cpu() for x in (self.validation.sample[steps][rows], after))
