"""PIRF: physics-informed reward fine-tuning (Yuan et al., arXiv 2509.20570).

The reward sees the final sample only (trajectory level, no value function); its gradient goes back through the last K
sampler steps (truncation in time, as DRaFT-K) and into a suffix of the decoder (truncation in layers), while the
weights are held near the pretrained ones.

Two things go beyond the paper. The trained steps use a tuned copy of the network and all others the frozen one, so the
states at the handover do not change during tuning: a pool of them is drawn once and an update costs K steps. And the
solver's inputs (coefficient, source) are anchored to what the frozen model makes of the same state: the residual's
gradient reaches only the solution channels, else the model learns to shrink the source.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.parallel import ALONE, Team
from ..common.streams import POOL_NOISE
from ..diffusion.sampler import State
from ..evaluation.figures import residual_rms
from ..models.checkpoint import Checkpoint
from ..training.config import TuningConfig, setting
from ..training.events import PoolStep, Working
from ..training.handover import Handovers
from ..training.loop import TuningLoop
from .registry import register
from .rewards import NORMS, OwnReward, ResidualReward, Reward


@dataclass(frozen=True)
class PirfConfig(TuningConfig):
    """PIRF's own: `hold` weighs the distance in the second norm from the baseline's samples, `anchor` that of the input
    channels (in units of the linear denoiser's error)."""

    norm: str = setting("two-norm", "norm of the reward", "Reward norm", choices=NORMS)
    error_weight: float = setting(1.0, "weight of the reward's second norm", "Error weight", low=0, fitted=True)
    hold: float = setting(0.0, "weight that holds the samples in the second norm", "Hold weight", low=0, fitted=True)
    anchor: float = setting(1.0, "weight that holds the solver's inputs", "Anchor weight", low=0)

    @classmethod
    def for_short_runs(cls, base: Checkpoint, asked: Mapping[str, Any]) -> dict[str, Any]:
        held = base.problem.mean_operator and base.info.parent is None and asked.get("norm") != "plain"
        return super().for_short_runs(base, asked) | (HELD if held else {})


# For short runs on equations whose second norm is that of a mean operator: a few hundred samples do not say which way
# the error of the solution should go (on Darcy flow the gradients of single batches have 5 % in common), so it is held
# where the baseline has it.
HELD = {"error_weight": 0.5, "hold": 3.0}
Batch = tuple[int, Tensor, int]  # step count, rows of the pool, symmetry


@register("PIRF", "with the physics reward on its samples", "arXiv 2509.20570", rewarded=True)
class PirfTuning(TuningLoop):
    """A PIRF run: a pool of handover states, the reward, and updates of the expert on batches of the pool."""

    method, config_class = "pirf", PirfConfig
    config: PirfConfig
    reward: ResidualReward | OwnReward  # these two once `calibrate` has found them
    input_scale: Tensor

    def __init__(self, base: Checkpoint, config: PirfConfig, workers: Team = ALONE, own_reward: Reward | None = None):
        super().__init__(base, config, workers)
        self.pool = Handovers()
        self.own_reward = own_reward

    def drawn(self) -> dict[str, Tensor]:
        return super().drawn() | self.pool.tensors("pool")

    def take_drawn(self, tensors: dict[str, Tensor]) -> None:
        super().take_drawn(tensors)
        self.pool = Handovers.read("pool", tensors, self.workers.device)

    def draw_pool(self) -> Iterator[PoolStep]:
        yield from self.draw_handovers(self.pool, self.config.pool, POOL_NOISE, self.config.validation)

    def stand_in(self, steps: int, x: Tensor, sample: Tensor) -> None:
        self.pool.add(steps, x=x, sample=sample, memory=torch.zeros_like(x) if self.config.last_steps > 1 else None)

    def calibrate(self) -> Iterator[Working]:
        """The units of reward and anchor, from the pool; at once."""
        before = torch.cat(list(self.pool.sample.values()))
        self.input_scale = self._input_scale()
        fields, c = self.pde.denormalise(before), self.config
        if self.own_reward is None:
            self.reward = ResidualReward.calibrated(self.pde, fields, c.norm, c.error_weight)
        else:
            self.reward = OwnReward.calibrated(self.pde, fields, self.own_reward)
        yield from ()

    def _input_scale(self) -> Tensor:
        """The linear estimate's RMS error in the solver's inputs at the handover, in physical units."""
        c, resolution = len(self.pde.channels), self.base.info.resolution
        white = torch.randn(16, c, resolution, resolution, generator=torch.Generator().manual_seed(0))
        white = white.to(self.workers.device)
        error = self.model.base.prior.scale(white, torch.full((16,), self.model.handover).to(white))
        parts = (self.pde.inputs(self.pde.denormalise(x)) for x in (error, torch.zeros_like(error)))
        return (next(parts) - next(parts)).square().mean().sqrt()

    def batch(self, chance: torch.Generator) -> Batch:
        c = self.config
        steps = c.pool_steps[self.update % len(c.pool_steps)]
        rows = torch.randint(len(self.pool.x[steps]), (c.batch,), generator=chance)
        return steps, rows, int(torch.randint(self.pde.symmetries, (1,), generator=chance))

    def objective(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        c, (steps, chosen, k) = self.config, batch
        state, before = self.pool.state(steps, chosen[rows]), self.pool.sample[steps][chosen[rows]]
        # The solver's memory is in units of the network's output, which have no offset.
        memory = None if state.memory is None else self.pde.turned_change(state.memory, k)
        ends = self.finish(State(self.pde.turned(state.x, k), memory), steps)
        reward, anchor, held, fields = self.terms(ends, self.pde.turned(before, k))
        square = residual_rms(self.pde, fields.detach()).square().mean()
        told = torch.stack([reward.detach(), anchor.detach(), square])
        return reward + c.anchor * anchor + c.hold * held, told

    def held_out(self, ends: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return self.terms(ends, before)[:2]

    def terms(self, ends: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the samples that tuning makes and those of before: the reward's loss, the change of the inputs, the change
        in the second norm (0 where nothing is held), and the fields `[n, c, N, N]` that the reward saw."""
        sample, kept = (self.pde.denormalise(x) for x in (ends, before))
        mixed = self.pde.hold_inputs(sample, kept)
        moved = self.pde.inputs(sample) - self.pde.inputs(kept)
        held = self.reward.moved(mixed, kept) if self.config.hold else moved.new_zeros(())
        return self.reward.loss(mixed), (moved / self.input_scale).square().mean(), held, mixed
