"""The Gaussian that the preconditioning is built on: the data's mean and covariance, low-rank in cosine modes.

EDM (arXiv 2206.00364, section 5) derives c_skip and c_out from a scalar data variance s^2: the best linear denoiser
of isotropic data is s^2 / (s^2 + sigma^2), and the network predicts what is left, scaled to unit variance. Smooth
fields are far from isotropic: nearly all their energy sits in a few modes. With the data's covariance C in place of
s^2 the same derivation gives the Wiener filter

    D_lin(x) = mu + C (C + sigma^2)^-1 (x - mu),     e(sigma)^2 = diag C sigma^2 (C + sigma^2)^-1,

and the network predicts (D - D_lin) / e. Rank 0 is EDM's preconditioning exactly.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

MAX_RANK, MAX_MODES = 1024, 128


# Modes an axis in which what the directions leave is accounted for apart.
LOWEST = 8


def cosine_basis(resolution: int, modes: int) -> Tensor:
    """The first `modes` orthonormal cosine functions `[modes, N]` (DCT-II rows), float64."""
    k = torch.arange(modes, dtype=torch.float64)[:, None]
    x = torch.arange(resolution, dtype=torch.float64)[None, :] + 0.5
    basis = math.sqrt(2 / resolution) * torch.cos(torch.pi * k * x / resolution)
    basis[0] *= math.sqrt(0.5)
    return basis


class GaussianPrior(nn.Module):
    """mean `[c, m, m]`, directions `[r, c, m, m]` (orthonormal) with variances `[r]`, and per channel the variance of
    everything outside them: `rest_low [c]` in the 8 lowest modes an axis, `rest [c]` in all others. For Gaussian
    fields the two differ by orders of magnitude: the directions leave next to nothing of the large scales, and letting
    the small scales' variance through there would loosen the tie between input and solution.

    All in normalised units; c channels, m cosine modes an axis, rank r."""

    def __init__(self, channels: int, resolution: int, rank: int = 0, modes: int = 1, sigma_data: float = 0.5):
        super().__init__()
        self.resolution, self.rank, self.modes = resolution, rank, modes
        self.register_buffer("mean", torch.zeros(channels, modes, modes))
        self.register_buffer("directions", torch.zeros(rank, channels, modes, modes))
        self.register_buffer("variance", torch.zeros(rank))
        self.register_buffer("rest", torch.full((channels,), sigma_data**2))
        self.register_buffer("rest_low", torch.full((channels,), sigma_data**2))
        self.box = min(LOWEST, modes)
        self.register_buffer("basis", cosine_basis(resolution, modes).float(), persistent=False)

    @classmethod
    def fit(cls, fields: Tensor, rank: int, modes: int) -> "GaussianPrior":
        """Principal components of normalised `fields [n, c, N, N]` (n well above `rank`) in `modes` cosines an axis."""
        n, c, resolution, _ = fields.shape
        prior = cls(c, resolution, rank, modes)
        basis = cosine_basis(resolution, modes).to(fields)
        coefficients = (basis @ fields @ basis.T).double()
        mean = coefficients.mean(0)
        centred = (coefficients - mean).reshape(n, -1)
        variance, directions = torch.linalg.eigh(centred.T @ centred / (n - 1))
        variance, directions = variance.flip(0)[:rank], directions.flip(1)[:, :rank].T
        prior.mean.copy_(mean)
        prior.variance.copy_(variance)
        prior.directions.copy_(directions.reshape(rank, c, modes, modes))
        prior.measure_rest(fields)
        return prior

    def measure_rest(self, fields: Tensor) -> None:
        """Sets `rest` and `rest_low` from the variance that the directions leave of normalised `fields [n, c, N, N]`.

        The lowest modes are set apart only where the directions leave less there than elsewhere."""
        n, basis = len(fields), self.basis.double()
        centred = fields.double() - basis.T @ self.mean.double() @ basis
        low = basis @ centred @ basis.T
        directions = self.directions.double().flatten(1)
        left = low - (low.flatten(1) @ directions.T @ directions).view_as(low)
        energy = lambda x: x.square().sum((0, 2, 3)) / (n - 1)  # noqa: E731
        total, in_box = energy(centred) - energy(low) + energy(left), energy(left[..., : self.box, : self.box])
        spanned, spanned_box = self._spanned()
        free, free_box = self.resolution**2 - spanned, self.box**2 - spanned_box
        total, in_box, tiny = total.clamp_min(0), in_box.clamp_min(0), 1e-6  # none are left at full rank
        pooled, apart = total / free.clamp_min(tiny), in_box / free_box.clamp_min(tiny)
        self.rest.copy_(torch.where(apart < pooled, (total - in_box) / (free - free_box).clamp_min(tiny), pooled))
        self.rest_low.copy_(torch.where(apart < pooled, apart, pooled))

    def _spanned(self) -> tuple[Tensor, Tensor]:
        """How many of a channel's modes `[c]` the directions span: of all, and of the lowest ones."""
        squares = self.directions.square()
        return squares.sum((0, 2, 3)), squares[..., : self.box, : self.box].sum((0, 2, 3))

    def posterior_std(self, sigma: Tensor) -> Tensor:
        """Root mean square error `[n, c, 1, 1]` of the linear denoiser at noise levels sigma `[n]`."""
        s2 = sigma.float()[:, None] ** 2
        left = lambda variance: variance * s2 / (variance + s2)  # noqa: E731
        spanned, spanned_box = self._spanned()
        low = self.box**2 - spanned_box
        high = self.resolution**2 - spanned - low
        total = (
            left(self.variance) @ self.directions.square().sum((2, 3))
            + low * left(self.rest_low)
            + high * left(self.rest)
        )
        return (total / self.resolution**2).sqrt()[:, :, None, None]

    def hold(self, change: Tensor, sigma: Tensor) -> Tensor:
        """A change `[n, c, N, N]` of the linear estimate, held in the lowest modes to what is left there to know.

        Outside the directions, the linear estimate's error in those modes may be far below `posterior_std`, which is an
        average over all modes; a network's output at that scale would be noise there."""
        if torch.equal(self.rest_low, self.rest):
            return change
        s2 = sigma.float()[:, None] ** 2
        left = (self.rest_low * s2 / (self.rest_low + s2)).sqrt()[:, :, None, None]
        share = (left / self.posterior_std(sigma)).clamp_max(1)
        low = self.basis @ change @ self.basis.T
        directions = self.directions.flatten(1)
        outside = low - (low.flatten(1) @ directions.T @ directions).view_as(low)
        lowest = self.basis[: self.box]
        return change - lowest.T @ ((1 - share) * outside[..., : self.box, : self.box]) @ lowest

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The best linear denoiser: x `[n, c, N, N]` at noise levels sigma `[n]` to the posterior mean."""
        s2 = sigma.float().view(-1, 1) ** 2
        keep = (self.rest / (self.rest + s2))[:, :, None, None]
        if not self.rank:
            return keep * x
        x = x - self.basis.T @ self.mean @ self.basis
        low = self.basis @ x @ self.basis.T
        directions = self.directions.flatten(1)
        score = low.flatten(1) @ directions.T
        gained = (score * self.variance / (self.variance + s2)) @ directions
        plain = (score @ directions).view_as(low)
        correction = self.mean + gained.view_as(low) - keep * plain
        keep_low = (self.rest_low / (self.rest_low + s2))[:, :, None, None]
        box = np.s_[..., : self.box, : self.box]
        correction[box] += (keep_low - keep) * (low - plain)[box]
        return keep * x + self.basis.T @ correction @ self.basis
