"""PIDM: physics-informed diffusion models (Bastek, Sun, Kochmann, arXiv 2403.14404), as a way of fine-tuning.

The network goes on learning to denoise solver fields, and the PDE residual of its denoised estimate is added to the
loss: the likelihood of a residual of zero under a variance that grows with the noise, as the estimate is a mean over
what the clean field may be, which need not solve the equation ("mean estimation" in the paper). It needs data, and
never sees a sample of the model.

As in PIRF, the tuned weights make the last K steps only, and the solver's inputs get no gradient from the residual.
With K one less than the number of steps they act at every noise level but the first, as the paper's do; with K = 1 at
one level, sigma_min, where the variance is the same for all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..common.parallel import ALONE, Team
from ..models.checkpoint import Checkpoint
from ..training.config import TuningConfig, setting
from ..training.events import PoolStep, Working
from ..training.loop import TuningLoop
from ..training.pretraining import PART, training_data
from .registry import register


@dataclass(frozen=True)
class PidmConfig(TuningConfig):
    """PIDM's own: `residual_weight` weighs the residual of the denoised estimate against the denoising loss, both in
    units of what they were before tuning."""

    drift: float = 0.0
    residual_weight: float = setting(1.0, "weight of the residual against the denoising loss", "Residual weight", low=0)
    learns_from_data: ClassVar[bool] = True
    calibrated: ClassVar[int] = 64
    short_rate: ClassVar[float] = 1e-3


Batch = tuple[Tensor, Tensor, Tensor]  # clean fields, noise, noise levels


@register("PIDM", "on solver data with the residual in its loss", "arXiv 2403.14404")
class PidmTuning(TuningLoop):
    """A PIDM run: a pool of solver fields, and updates of the expert on noisy ones of them."""

    method, config_class = "pidm", PidmConfig
    config: PidmConfig

    def __init__(self, base: Checkpoint, config: PidmConfig, workers: Team = ALONE):
        super().__init__(base, config, workers)
        size = base.info.resolution
        self.data = torch.zeros(0, len(self.pde.channels), size, size, device=workers.device)
        self.units: Tensor | None = None  # `[2]`, of denoising error and residual: what the base model has
        self.begun: Tensor | None = None  # `[2]`, the same of the model that the run starts from, in those units

    def drawn(self) -> dict[str, Tensor]:
        known = {"data": self.data, "units": self.units, "begun": self.begun}
        return super().drawn() | {name: x for name, x in known.items() if x is not None}

    def take_drawn(self, tensors: dict[str, Tensor]) -> None:
        super().take_drawn(tensors)
        self.data = tensors["data"].to(self.workers.device)
        self.units, self.begun = tensors.get("units"), tensors.get("begun")

    def draw_pool(self) -> Iterator[PoolStep]:
        c = self.config
        while len(self.data) < c.pool:
            number = len(self.data) // PART + self.workers.rank
            mine = training_data(self.pde, PART, self.base.info.resolution, c.seed, number)
            parts = [part.to(self.data) for part in self.workers.gather([mine])]
            self.data = torch.cat([self.data, *parts])[: c.pool]
            self.settled = self.events + 1
            yield PoolStep(c.validation + len(self.data), c.validation + c.pool, 0.0)

    def stand_in(self, steps: int, x: Tensor, sample: Tensor) -> None:
        self.data = torch.cat([self.data, sample])

    def calibrate(self) -> Iterator[Working]:
        """Both terms of the loss are 1 under the base model, over the noise levels that it draws."""
        if self.units is not None:
            return
        clean = self.data[: self.config.calibrated]
        n, models = len(clean), [self.model.base, self.model.expert]
        models = models[: 2 if self.base.info.parent else 1]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        sigma = self._levels((torch.arange(n) + 0.5) / n).to(clean)
        found, done = torch.zeros(len(models), 2), 0
        for parts in zip(*(x.split(self.config.chunk) for x in (clean, noise, sigma)), strict=True):
            if done:
                yield Working(0, done, n, 0.0)
            with torch.no_grad():
                terms = torch.stack([self._terms(model, *parts)[:2] for model in models])
            found += len(parts[0]) / n * terms.cpu()
            done += len(parts[0])
        self.units, self.begun = found[0], found[-1] / found[0]
        self.settled = self.events

    def _levels(self, share: Tensor) -> Tensor:
        """Noise levels for shares from 0 to 1: from sigma_min to the handover, even in the logarithm."""
        low, high = (math.log(level) for level in (self.base.info.schedule.sigma_min, self.model.handover))
        return (low + (high - low) * share).exp()

    def _noise(self, n: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Standard normal noise `[n, c, N, N]`, and levels `[n]`."""
        noise = torch.randn(n, *self.data.shape[1:], generator=chance)
        return noise.to(self.data), self._levels(torch.rand(n, generator=chance)).to(self.data)

    def batch(self, chance: torch.Generator) -> Batch:
        rows = torch.randint(len(self.data), (self.config.batch,), generator=chance)
        k = int(torch.randint(self.pde.symmetries, (1,), generator=chance))
        return self.pde.turned(self.data[rows], k), *self._noise(len(rows), chance)

    def objective(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        assert self.units is not None  # `calibrate` has found them
        *terms, square = self._terms(self.model.expert, *(x[rows] for x in batch))
        error, residual = (term / unit for term, unit in zip(terms, self.units.tolist(), strict=True))
        loss = error + self.config.residual_weight * residual
        return loss, torch.stack([loss, error, square]).detach()

    def held_out(self, ends: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Held-out noise has no clean field to compare with: those of the model that the run starts from, on the data
        of the calibration."""
        assert self.begun is not None  # likewise
        error, residual = self.begun.to(ends)
        return error + self.config.residual_weight * residual, error

    def _terms(self, model: torch.nn.Module, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """`[3]`, means: square error of the denoised estimate, in units of the linear estimate's; square residual of
        it, over the variance (sigma / sigma_min)^2; square residual."""
        estimate = model(clean + sigma[:, None, None, None] * noise, sigma)
        error = self.model.base.error(estimate, clean, sigma)
        fields = self.pde.denormalise(estimate)
        residual = self.pde.interior(self.pde.residual(self.pde.hold_inputs(fields, fields.detach())))
        square = residual.square().flatten(1).mean(1)
        spread = (sigma / self.base.info.schedule.sigma_min).square()
        return torch.stack([error, (square / spread).mean(), square.mean()])
