"""A base denoiser with a tuned copy for the low-noise end of the trajectory."""

from copy import deepcopy

from torch import Tensor, nn

from .denoiser import Denoiser


class TunedDenoiser(nn.Module):
    """Steps that start above noise level `handover` are made by the frozen `base`, the others by the tuned `expert`.

    The states at the handover come from the frozen model, so tuning cannot disturb the part of the trajectory that
    decides what is drawn; the expert decides how well it satisfies the physics. A step belongs to one model whole:
    were the expert to correct the base's last step, its change would be multiplied by the ratio of noise levels."""

    def __init__(self, base: Denoiser, handover: float, expert: Denoiser | None = None):
        super().__init__()
        self.base, self.expert, self.handover = base, expert or deepcopy(base), handover

    @property
    def autocast(self) -> bool:
        return self.base.autocast

    @autocast.setter
    def autocast(self, value: bool) -> None:
        self.base.autocast = self.expert.autocast = value

    def at(self, sigma: Tensor) -> Denoiser:
        """The model for the step that starts at noise level `sigma` (a scalar)."""
        return self.expert if float(sigma) <= self.handover * (1 + 1e-5) else self.base

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.at(sigma.max())(x, sigma)
