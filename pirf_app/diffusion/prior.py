"""The Gaussian that the preconditioning is built on: the data's mean and covariance, low-rank in cosine modes.

EDM (arXiv 2206.00364, section 5) derives c_skip and c_out from a scalar data variance s^2: the best linear denoiser
of isotropic data is s^2 / (s^2 + sigma^2), and the network predicts what is left, scaled to unit variance. Smooth
fields are far from isotropic: nearly all their energy sits in a few modes. With the data's covariance C in place of
s^2 the same derivation gives the Wiener filter

    D_lin(x) = mu + C (C + sigma^2)^-1 (x - mu),     e(sigma)^2 = diag C sigma^2 (C + sigma^2)^-1,

and the network predicts (D - D_lin) / e. Rank 0 is EDM's preconditioning exactly.
"""

import math

import torch
from torch import Tensor, nn

MAX_RANK, MAX_MODES = 1024, 128


def cosine_basis(resolution: int, modes: int) -> Tensor:
    """The first `modes` orthonormal cosine functions `[modes, N]` (DCT-II rows), float64."""
    k = torch.arange(modes, dtype=torch.float64)[:, None]
    x = torch.arange(resolution, dtype=torch.float64)[None, :] + 0.5
    basis = math.sqrt(2 / resolution) * torch.cos(torch.pi * k * x / resolution)
    basis[0] *= math.sqrt(0.5)
    return basis


class GaussianPrior(nn.Module):
    """mean `[c, m, m]`, directions `[r, c, m, m]` (orthonormal) with variances `[r]`, and per channel the variance
    `rest [c]` of everything outside them. All in normalised units; c channels, m cosine modes an axis, rank r."""

    def __init__(self, channels: int, resolution: int, rank: int = 0, modes: int = 1, sigma_data: float = 0.5):
        super().__init__()
        self.resolution, self.rank, self.modes = resolution, rank, modes
        self.register_buffer("mean", torch.zeros(channels, modes, modes))
        self.register_buffer("directions", torch.zeros(rank, channels, modes, modes))
        self.register_buffer("variance", torch.zeros(rank))
        self.register_buffer("rest", torch.full((channels,), sigma_data**2))
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
        total = (fields.double() - basis.T.double() @ mean @ basis.double()).square().sum((0, 2, 3)) / (n - 1)
        share = prior.directions.double().square().sum((2, 3))
        prior.rest.copy_((total - variance @ share) / (resolution**2 - share.sum(0)))
        return prior

    def posterior_std(self, sigma: Tensor) -> Tensor:
        """Root mean square error `[n, c, 1, 1]` of the linear denoiser at noise levels sigma `[n]`."""
        s2 = sigma.float()[:, None] ** 2
        share = self.directions.square().sum((2, 3)) / self.resolution**2
        inside = (self.variance * s2 / (self.variance + s2)) @ share
        outside = self.rest * s2 / (self.rest + s2)
        return (inside + (1 - share.sum(0)) * outside).sqrt()[:, :, None, None]

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The best linear denoiser: x `[n, c, N, N]` at noise levels sigma `[n]` to the posterior mean."""
        s2 = sigma.float().view(-1, 1) ** 2
        keep = (self.rest / (self.rest + s2))[:, :, None, None]
        if not self.rank:
            return keep * x
        x = x - self.basis.T @ self.mean @ self.basis
        low = (self.basis @ x @ self.basis.T).flatten(1)
        directions = self.directions.flatten(1)
        score = low @ directions.T
        gained = (score * self.variance / (self.variance + s2)) @ directions
        plain = score @ directions
        shape = (len(x), *self.mean.shape)
        correction = self.mean + gained.view(shape) - keep * plain.view(shape)
        return keep * x + self.basis.T @ correction @ self.basis
