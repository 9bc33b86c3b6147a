"""Physics while sampling, with no training: an untuned model's denoised estimate is moved down the squared residual.

*DiffusionPDE* (arXiv 2406.17763) moves along the gradient with respect to the noisy field, through the network: what it
may change is what the network takes for uncertain. *CoCoGen* (arXiv 2312.10527) moves the estimate itself along its own
gradient, several times, which costs no network evaluation.

How far a move goes is not taken from the papers, where it is a number to be found for every equation: here each goes to
the least residual along its direction, which is known exactly where the residual is linear.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import grad

from ..pdes import PDE
from .denoiser import Denoiser
from .prior import Prior


class GuidedDenoiser(nn.Module, ABC):
    """D(x; sigma) of `base`, guided by the residual of `pde` (in the model's units). A sampler is given it (`at`) from
    noise level `below` on (normalised units, where data have a deviation of 0.5): far above, an estimate is a mean over
    many fields, which need not solve the equation."""

    title: str
    below: float
    evaluations = 1  # what a call costs, in those of the network

    def __init__(self, base: Denoiser, pde: PDE):
        super().__init__()
        self.base, self.pde = base, pde

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The guided estimate `[n, c, N, N]`."""

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
        return self if float(sigma) <= self.below else self.base

    def residual(self, x: Tensor) -> Tensor:
        """`[n, ...]` of normalised fields `[n, c, N, N]`."""
        return self.pde.interior(self.pde.residual(self.pde.denormalise(x)))

    def moved(self, estimate: Tensor, direction: Callable[[Tensor], Tensor]) -> Tensor:
        """`estimate` moved against `direction` of its squared residual's gradient, each sample to the least squared
        residual on that line, to first order."""
        with torch.enable_grad():
            fields = estimate.detach().requires_grad_()
            residual = self.residual(fields)
            weights = residual.detach().requires_grad_()
            (gradient,) = grad(residual, fields, weights, create_graph=True)
        move = direction(gradient.detach())
        # The gradient is linear in the weights, and its own gradient says how the residual changes along the move.
        (change,) = grad(gradient, weights, move)
        residual, change = residual.detach().flatten(1), change.flatten(1)
        length = (residual * change).sum(1) / change.square().sum(1).clamp_min(1e-30)
        return fields.detach() - length.view(-1, 1, 1, 1) * move


class DiffusionPDE(GuidedDenoiser):
    """One move along the gradient with respect to x."""

    title, below = "DiffusionPDE", 2.0
    evaluations = 2  # the way back to the input, without the weights' gradients, takes about as long as the way there

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            noisy = x.detach().requires_grad_()
            estimate = self.base(noisy, sigma)
        return self.moved(estimate, lambda gradient: grad(estimate, noisy, gradient)[0])


class CoCoGen(GuidedDenoiser):
    """Several moves along the estimate's own gradient."""

    title, below = "CoCoGen", 0.3
    moves = 8

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        estimate = self.base(x, sigma)
        for _ in range(self.moves):
            estimate = self.moved(estimate, lambda gradient: gradient)
        return estimate


GUIDANCE: dict[str, type[GuidedDenoiser]] = {"cocogen": CoCoGen, "diffusionpde": DiffusionPDE}
