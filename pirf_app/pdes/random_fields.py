"""Random streams by seed and purpose, and the Gaussian random fields that the benchmarks start from."""

import numpy as np
from scipy.fft import idctn

from ..common.streams import SOLVER_DATA, generator, sample_noise


def neumann_spectrum(resolution: int) -> np.ndarray:
    """Standard deviation of each orthonormal cosine coefficient `[N, N]` of a field with covariance
    9 (-lap + 9)^-2 and zero-Neumann boundary on the unit square, mean removed (Li et al. 2021, arXiv 2010.08895)."""
    k = np.arange(resolution)
    scale = resolution * 3 / (np.pi**2 * (k[:, None] ** 2 + k[None, :] ** 2) + 9)
    scale[0, 0] = 0
    return scale


def neumann_field(n: int, resolution: int, seed: int) -> np.ndarray:
    """Fields `[n, N, N]` float64 with the covariance of `neumann_spectrum`."""
    noise = sample_noise(n, (resolution, resolution), seed, SOLVER_DATA)
    return idctn(neumann_spectrum(resolution) * noise, axes=(1, 2), norm="ortho")


def periodic_spectrum(modes: int) -> np.ndarray:
    """Standard deviation `[modes]` of the cosine and sine coefficients of wavenumbers 1 to `modes` of a periodic field
    on [0, 1) with covariance 49^2 (-lap + 49)^-2.5 and zero mean (Li et al. 2021; DiffusionPDE)."""
    k = 2 * np.pi * np.arange(1, modes + 1)
    return np.sqrt(2) * 49 * (k**2 + 49) ** -1.25


def periodic_field(samples: range, resolution: int, modes: int, seed: int) -> np.ndarray:
    """Fields `[len(samples), N]` float64 with the spectrum of `periodic_spectrum`. Sample k has the same low modes
    on every grid."""
    noise = np.stack([generator(seed, SOLVER_DATA, k).standard_normal((modes, 2)) for k in samples])
    # cos and sin of k x on N points are N/2 and -iN/2 in the k-th coefficient of the real transform.
    coefficients = np.zeros((len(samples), resolution // 2 + 1), complex)
    coefficients[:, 1 : modes + 1] = resolution / 2 * periodic_spectrum(modes) * (noise[..., 0] - 1j * noise[..., 1])
    return np.fft.irfft(coefficients, resolution)
