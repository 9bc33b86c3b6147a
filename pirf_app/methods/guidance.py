"""Physics while sampling, with no training: an untuned model's denoised estimate is moved down the squared residual.

*DiffusionPDE* (arXiv 2406.17763) moves along the gradient with respect to the noisy field, through the
network: what it may change is what the network takes for uncertain. *CoCoGen* (arXiv 2312.10527) moves the
estimate itself along its own gradient, several times, which costs no network evaluation.

The papers scale the gradient by a weight that is found by hand for every equation and step count. Here every move goes
to the least residual along its direction, which is known exactly where the residual is linear.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.func import vjp

from ..checkpoints import Checkpoint
from ..diffusion.denoiser import Denoiser
from ..diffusion.prior import Prior
from ..pdes import PDE


@dataclass(frozen=True)
class Guidance:
    """How a method guides: through the network once an evaluation, or by so many `corrections` of the estimate; from
    noise level `below` on (normalised units, where data have a deviation of 0.5). Far above it an estimate is a mean
    over many fields, which need not solve the equation."""

    title: str
    does: str
    corrections: int
    below: float


GUIDANCE = {
    "cocogen": Guidance("CoCoGen", "gradient steps on the residual of the last estimates (arXiv 2312.10527)", 8, 0.3),
    "diffusionpde": Guidance("DiffusionPDE", "gradient of the residual through the network (arXiv 2406.17763)", 0, 2.0),
}


class GuidedDenoiser(nn.Module):
    """D(x; sigma) of `base`, guided by the residual of `pde` (in the model's units) at low noise."""

    def __init__(self, base: Denoiser, pde: PDE, guidance: Guidance):
        super().__init__()
        self.base, self.pde, self.guidance = base, pde, guidance

    @property
    def prior(self) -> Prior:
        return self.base.prior

    @property
    def autocast(self) -> bool:
        return self.base.autocast

    @autocast.setter
    def autocast(self, value: bool) -> None:
        self.base.autocast = value

    def at(self, sigma: Tensor) -> nn.Module:
        """The model for the step that starts at noise level `sigma` (a scalar)."""
        return self if float(sigma) <= self.guidance.below else self.base

    def residual(self, x: Tensor) -> Tensor:
        """`[n, ...]` of normalised fields `[n, c, N, N]`."""
        return self.pde.interior(self.pde.residual(self.pde.denormalise(x)))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        if not self.guidance.corrections:
            estimate, through = vjp(lambda noisy: self.base(noisy, sigma), x)
            return self.moved(estimate, lambda gradient: through(gradient)[0])
        estimate = self.base(x, sigma)
        for _ in range(self.guidance.corrections):
            estimate = self.moved(estimate, lambda gradient: gradient)
        return estimate

    def moved(self, estimate: Tensor, direction: Callable[[Tensor], Tensor]) -> Tensor:
        """`estimate` moved against `direction` of its squared residual's gradient, each sample to the least squared
        residual on that line, to first order."""
        residual, back = vjp(self.residual, estimate)
        gradient = lambda r: back(r)[0]  # noqa: E731
        move = direction(gradient(residual))
        # `gradient` is linear, and its own gradient says how the residual changes along a direction.
        _, along = vjp(gradient, residual)
        residual, change = residual.flatten(1), along(move)[0].flatten(1)
        length = (residual * change).sum(1) / change.square().sum(1).clamp_min(1e-30)
        return estimate - length.view(-1, 1, 1, 1) * move


def guided(base: Checkpoint, method: str) -> Checkpoint:
    """The untuned checkpoint `base` as `method` (a name in `GUIDANCE`) samples it. It shares the weights."""
    denoiser = GuidedDenoiser(base.denoiser, base.problem, GUIDANCE[method]).eval()
    return replace(base, denoiser=denoiser, info=replace(base.info, method=method))
