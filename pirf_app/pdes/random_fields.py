"""Gaussian random fields, drawn per sample so that sample k of a seed does not depend on how many are asked for."""

import numpy as np
from scipy.fft import idctn


def sample_noise(n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal noise `[n, *shape]` float64; row k depends only on (seed, k)."""
    return np.stack([np.random.default_rng([seed, k]).standard_normal(shape) for k in range(n)])


def neumann_spectrum(resolution: int) -> np.ndarray:
    """Standard deviation of each orthonormal cosine coefficient `[N, N]` of a field with covariance
    9 (-lap + 9)^-2 and zero-Neumann boundary on the unit square, mean removed (Li et al. 2021, arXiv 2010.08895)."""
    k = np.arange(resolution)
    scale = resolution * 3 / (np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2) + 9)
    scale[0, 0] = 0
    return scale


def neumann_field(n: int, resolution: int, seed: int) -> np.ndarray:
    """Fields `[n, N, N]` float64 with the covariance of `neumann_spectrum`."""
    noise = sample_noise(n, (resolution, resolution), seed)
    return idctn(neumann_spectrum(resolution) * noise, axes=(1, 2), norm="ortho")
