"""Physics as a reward on the final sample: minus the PDE residual, in one norm or two."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..pdes import PDE

NORMS = ("two-norm", "plain")


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
