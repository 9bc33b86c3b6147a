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
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import Checkpoint, CheckpointInfo, save_checkpoint
from ..diffusion import denoiser
from ..diffusion.run_state import load_run, save_run
from ..diffusion.sampler import Schedule, State, advance, initial_noise, trajectory
from ..diffusion.tuned import TunedDenoiser
from ..evaluation import residual_rms
from ..pdes import PDE
from ..pdes.random_fields import BATCHES, POOL_NOISE, VALIDATION_NOISE, derived_seed
from .pirf_config import DivergedError, PirfConfig, PirfStep, PoolStep
from .rewards import ResidualReward


@dataclass
class _States:
    """Handover states by step count: x, what the solver remembers of the step before (None: nothing), and, of the
    frozen model, the sample that ends the same trajectory."""

    x: dict[int, Tensor]
    memory: dict[int, Tensor | None]
    sample: dict[int, Tensor]


class PirfTuning:
    """State of a run on a base checkpoint. Iterate `run()`; `save`/`load` resume it; `result` is the tuned model."""

    def __init__(self, base: Checkpoint, config: PirfConfig, device: str = "cpu"):
        self.base, self.config, self.device = base, config, torch.device(device)
        self.pde: PDE = base.problem
        levels = [self._schedule(steps).sigmas()[-1 - config.last_steps].item() for steps in config.pool_steps]
        self.model = TunedDenoiser(deepcopy(base.denoiser), max(levels)).to(self.device)
        self.model.autocast = denoiser.native_bfloat16(device) or base.denoiser.autocast
        self.model.base.requires_grad_(False)
        # torch 2.13 crashes in the backward pass of a partly frozen network in channels_last on the CPU.
        self.model.expert.to(memory_format=torch.contiguous_format)
        self.parameters = self.model.expert.network.freeze(config.trainable)
        self.start = [p.detach().clone() for p in self.parameters]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.Adam(self.parameters, config.learning_rate, betas=(0.9, 0.99))
        self.pool: _States | None = None
        self.validation: _States | None = None
        self.reward: ResidualReward | None = None
        self.update = 0
        self.seconds = 0.0

    def _schedule(self, steps: int) -> Schedule:
        return self.base.info.schedule.with_steps(steps)

    def run(self) -> Iterator[PoolStep | PirfStep]:
        """Draws the pool, then yields after every update. Raises DivergedError where the loss stops being finite."""
        c = self.config
        if self.pool is None:
            self.validation = yield from self._draw(c.validation, derived_seed(c.seed, VALIDATION_NOISE))
            self.pool = yield from self._draw(c.pool, derived_seed(c.seed, POOL_NOISE))
        before = torch.cat(list(self.pool.sample.values()))
        self.input_scale = self._input_scale()
        self.reward = ResidualReward.calibrated(self.pde, self.pde.denormalise(before), c.norm, c.error_weight)
        while self.update < c.updates:
            yield self._update()

    @torch.no_grad()
    def _draw(self, n: int, seed: int) -> Iterator[PoolStep]:
        """Handover states of `n` trajectories of the frozen model, shared out over the pool's step counts."""
        c, began, done = self.config, time.perf_counter(), 0
        shape = (len(self.pde.channels), self.base.info.resolution, self.base.info.resolution)
        noise = initial_noise(n, shape, seed).to(self.device)
        states = _States({}, {}, {})
        for i, steps in enumerate(c.pool_steps):
            drawn, ends = [], []
            for part in noise[i :: len(c.pool_steps)].split(16):
                for step in trajectory(self.model.base, part, self._schedule(steps)):
                    if step.step == steps - c.last_steps:
                        drawn.append(step.state)
                    yield PoolStep(done, n, self._clock(began))
                ends.append(step.x)
                done += len(part)
            memory = None
            if c.last_steps > 1 and drawn[0].memory is not None:
                memory = torch.cat([state.memory for state in drawn])
            states.x[steps] = torch.cat([state.x for state in drawn])
            states.memory[steps], states.sample[steps] = memory, torch.cat(ends)
        self.seconds = self._clock(began)
        return states

    def _clock(self, began: float) -> float:
        return self.seconds + time.perf_counter() - began

    def finish(self, state: State, steps: int) -> Tensor:
        """The expert's last K steps from handover states of a trajectory of `steps` steps; differentiable.

        The frozen part of the network builds no graph, so with K above 1 the gradient that reaches an earlier step
        through the network's input stops at the first trained layer; what flows through the skip remains."""
        schedule = self._schedule(steps)
        levels = schedule.sigmas().to(state.x)
        for i in range(steps - self.config.last_steps, steps):
            state, _ = advance(self.model.expert, state, schedule, levels, i)
        return state.x

    def _loss(self, state: State, before: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        sample, kept = (self.pde.denormalise(x) for x in (self.finish(state, steps), before))
        mixed = self.pde.hold_inputs(sample, kept)
        moved = self.pde.inputs(sample) - self.pde.inputs(kept)
        anchor = (moved / self.input_scale).square().mean()
        return self.reward.loss(mixed), anchor, mixed

    def _input_scale(self) -> Tensor:
        """The linear estimate's RMS error in the solver's inputs at the handover, in physical units."""
        c, resolution = len(self.pde.channels), self.base.info.resolution
        white = torch.randn(16, c, resolution, resolution, generator=torch.Generator().manual_seed(0))
        white = white.to(self.device)
        error = self.model.base.prior.scale(white, torch.full((16,), self.model.handover).to(white))
        parts = (self.pde.inputs(self.pde.denormalise(x)) for x in (error, torch.zeros_like(error)))
        return (next(parts) - next(parts)).square().mean().sqrt()

    def _diverged(self) -> DivergedError:
        return DivergedError(f"tuning diverged at update {self.update + 1}: try a lower learning rate")

    def learning_rate(self) -> float:
        c = self.config
        ramp = min(1.0, (self.update + 1) / c.warmup)
        return c.learning_rate * ramp * (0.5 + 0.5 * math.cos(math.pi * self.update / c.updates))

    def _update(self) -> PirfStep:
        c, began = self.config, time.perf_counter()
        draw = torch.Generator().manual_seed(derived_seed(c.seed, BATCHES, self.update))
        steps = c.pool_steps[self.update % len(c.pool_steps)]
        rows = torch.randint(len(self.pool.x[steps]), (c.batch,), generator=draw)
        k = int(torch.randint(self.pde.symmetries, (1,), generator=draw))
        take = lambda states: None if states[steps] is None else self.pde.transform(states[steps][rows], k)  # noqa: E731
        state, before = State(take(self.pool.x), take(self.pool.memory)), take(self.pool.sample)
        reward_loss, anchor, fields = self._loss(state, before, steps)
        change = sum((p - q).square().sum() for p, q in zip(self.parameters, self.start, strict=True))
        change = change / sum(p.numel() for p in self.parameters)
        loss = reward_loss + c.anchor * anchor + c.drift * change
        if not loss.isfinite():
            raise self._diverged()
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss.backward()
        if not torch.nn.utils.clip_grad_norm_(self.parameters, c.clip).isfinite():
            raise self._diverged()
        self.optimiser.step()
        self.update += 1
        with torch.no_grad():
            keep = min(c.ema, 1 - 1 / (1 + self.update))
            for averaged, current in zip(self.average, self.parameters, strict=True):
                averaged.lerp_(current, 1 - keep)
        check = self.validate() if self.update % c.validate_every == 0 or self.update == c.updates else (None, None)
        self.seconds = self._clock(began)
        batch_rms = residual_rms(self.pde, fields.detach()).square().mean().sqrt().item()
        measured = (reward_loss.item(), batch_rms, anchor.item(), change.sqrt().item())
        return PirfStep(self.update, c.updates, *measured, rate, self.seconds, *check)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """RMS residual and median forward-solve error of the averaged weights on held-out noise."""
        tuned = self.result()
        tuned.expert.to(self.device)
        current, self.model = self.model, tuned
        try:
            states = self.validation
            ends = [self.finish(State(x, states.memory[steps]), steps) for steps, x in states.x.items()]
        finally:
            self.model = current
        fields = self.pde.denormalise(torch.cat(ends))
        errors = self.pde.solve_error(fields)
        return residual_rms(self.pde, fields).square().mean().sqrt().item(), errors.median().item()

    @torch.no_grad()
    def result(self) -> TunedDenoiser:
        """The tuned model with the averaged weights; its own copy of the tuned part."""
        tuned = TunedDenoiser(self.base.denoiser, self.model.handover)
        expert = deepcopy(self.model.expert).eval()
        for parameter, averaged in zip((p for p in expert.parameters() if p.requires_grad), self.average, strict=True):
            parameter.copy_(averaged)
        tuned.expert = expert.requires_grad_(False).to(next(self.base.denoiser.parameters()).device)
        tuned.expert.autocast = self.base.denoiser.autocast
        return tuned

    def info(self, figures: dict | None = None) -> CheckpointInfo:
        """Metadata of the tuned checkpoint."""
        parent = self.base.info
        recipe = {"config": asdict(self.config), "updates": self.update, "seconds": round(self.seconds)}
        return CheckpointInfo(
            pde=parent.pde,
            resolution=parent.resolution,
            method="pirf",
            network=parent.network,
            normalisation=parent.normalisation,
            sampler=parent.sampler,
            prior=parent.prior,
            parent=self.base.sha256,
            handover=self.model.handover,
            recipe=recipe,
            figures=figures or {},
        )

    def export(self, path: Path, figures: dict | None = None) -> str:
        """Writes the tuned checkpoint and returns its SHA-256."""
        return save_checkpoint(path, self.result(), self.info(figures))

    def save(self, path: Path) -> None:
        """Everything that `load` needs, pool included, replaced atomically."""
        tensors = {f"parameter.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"average.{i}": p for i, p in enumerate(self.average)}
        for part, states in (("pool", self.pool), ("validation", self.validation)):
            if states is not None:
                for steps in states.x:
                    tensors |= {f"{part}.x.{steps}": states.x[steps], f"{part}.sample.{steps}": states.sample[steps]}
                    if states.memory[steps] is not None:
                        tensors[f"{part}.memory.{steps}"] = states.memory[steps]
        meta = {
            "config": asdict(self.config),
            "parent": self.base.sha256,
            "update": self.update,
            "seconds": self.seconds,
        }
        save_run(path, tensors, self.optimiser, meta)

    @classmethod
    def load(cls, base: Checkpoint, path: Path, device: str = "cpu") -> "PirfTuning":
        """The run that `save` wrote. Raises ValueError if it continues another base checkpoint."""
        tensors, optimiser, meta = load_run(path)
        if meta["parent"] != base.sha256:
            raise ValueError(f"{path} is a run on another base checkpoint")
        config = meta["config"] | {"pool_steps": tuple(meta["config"]["pool_steps"])}
        run = cls(base, PirfConfig(**config), device)
        with torch.no_grad():
            for i, (parameter, averaged) in enumerate(zip(run.parameters, run.average, strict=True)):
                parameter.copy_(tensors[f"parameter.{i}"])
                averaged.copy_(tensors[f"average.{i}"])
        for part in ("pool", "validation"):
            counts = [int(key.split(".")[-1]) for key in tensors if key.startswith(f"{part}.x.")]
            if len(counts) == len(run.config.pool_steps):
                tensors = {key: x.to(run.device) for key, x in tensors.items()}
                x = {n: tensors[f"{part}.x.{n}"] for n in run.config.pool_steps}
                memory = {n: tensors.get(f"{part}.memory.{n}") for n in x}
                setattr(run, part, _States(x, memory, {n: tensors[f"{part}.sample.{n}"] for n in x}))
        run.optimiser.load_state_dict({"state": optimiser, "param_groups": run.optimiser.state_dict()["param_groups"]})
        run.update, run.seconds = meta["update"], meta["seconds"]
        return run
