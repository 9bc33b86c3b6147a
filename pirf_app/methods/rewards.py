"""Rewards on the final sample: physics, minus the PDE residual in one norm or two; or a function of one's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import InputError
from ..pdes import PDE

NORMS = {"two-norm": "two norms", "plain": "residual alone"}  # with their titles


Reward = Callable[[Tensor], Tensor]  # of fields `[n, c, N, N]` in physical units, one number a sample: `[n]`


@dataclass(frozen=True)
class ResidualReward:
    """`loss(fields) = mean r^2 / r0^2 + weight * mean (L^-1 r)^2 / e0^2`, the negative reward.

    r is the residual, L^-1 r the error of the solution that it stands for (`PDE.error_field`); r0 and e0 are their RMS
    under the model before tuning, so that both terms start at 1 on every PDE. The paper's reward is the first term
    alone (`weight = 0`, norm "plain"); it hardly sees low frequencies, which then drift.
    """

    pde: PDE
    residual_scale: float
    error_scale: float
    weight: float

    @classmethod
    def calibrated(cls, pde: PDE, fields: Tensor, norm: str, weight: float = 1.0) -> "ResidualReward":
        """Scales measured on `fields [n, c, N, N]` of the model before tuning."""
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
        with torch.no_grad():
            r, e = pde.interior(pde.residual(fields)), pde.interior(pde.error_field(fields))
        scale = lambda x: x.square().mean().sqrt().item()  # noqa: E731
        return cls(pde, scale(r), scale(e), weight if norm == "two-norm" else 0.0)

    def loss(self, fields: Tensor) -> Tensor:
        """Minus the reward, `[]`, differentiable in the fields `[n, c, N, N]` (physical units)."""
        r = self.pde.interior(self.pde.residual(fields))
        loss = (r / self.residual_scale).square().mean()
        if self.weight:
            e = self.pde.interior(self.pde.error_field(fields))
            loss = loss + self.weight * (e / self.error_scale).square().mean()
        return loss

    def moved(self, fields: Tensor, before: Tensor) -> Tensor:
        """How far the second norm's field has gone from where it was in `before`, `[]`, in units of e0^2: large scales
        that a reward has no opinion on can be held with it, at no cost to the residual."""
        now, then = (self.pde.interior(self.pde.error_field(x)) for x in (fields, before))
        return ((now - then) / self.error_scale).square().mean()


@dataclass(frozen=True)
class OwnReward:
    """`loss(fields) = -mean reward(fields) / scale`, for any differentiable `reward` of the fields. `scale` is the mean
    size of the reward under the model before tuning, so that the loss starts near 1 or -1."""

    pde: PDE
    reward: Reward
    scale: float

    @classmethod
    def calibrated(cls, pde: PDE, fields: Tensor, reward: Reward) -> "OwnReward":
        """Scale measured on `fields [n, c, N, N]` of the model before tuning. Raises InputError for a function that
        does not give one finite number a sample."""
        with torch.no_grad():
            values = reward(fields)
        if not isinstance(values, Tensor) or values.shape != (len(fields),) or not values.isfinite().all():
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(f"a reward must give one finite number a sample, [{len(fields)}], not {shape}")
        return cls(pde, reward, values.abs().mean().clamp_min(1e-30).item())

    def loss(self, fields: Tensor) -> Tensor:
        return -self.reward(fields).mean() / self.scale

    def moved(self, fields: Tensor, before: Tensor) -> Tensor:
        """How far the samples have gone from `before`, `[]`, in units of the channels' deviations."""
        std = torch.tensor([channel.std for channel in self.pde.channels]).to(fields).view(-1, 1, 1)
        return ((fields - before) / std).square().mean()
