"""Periodic directions: wavenumbers, the 2/3 rule, and the time stepper that the spectral benchmarks share."""

from collections.abc import Callable

import numpy as np

CONTOUR_POINTS = 32


def kept_modes(resolution: int) -> int:
    """Largest wavenumber K that the 2/3 rule keeps on N points: products of modes up to K fold back onto none of them,
    3K < N."""
    return (resolution - 1) // 3


class Etdrk4:
    """Fourth-order exponential time differencing for v' = L v + N(v), L real and diagonal: Cox and Matthews' scheme
    with Kassam and Trefethen's contour integrals (SIAM J. Sci. Comput. 26, 2005)."""

    def __init__(self, linear: np.ndarray, step: float):
        z = step * np.asarray(linear, dtype=float)
        # The mean over the upper half of a unit circle about z; the lower half gives the complex conjugate.
        points = np.exp(1j * np.pi * (np.arange(CONTOUR_POINTS) + 0.5) / CONTOUR_POINTS)
        w = z[..., None] + points
        mean = lambda values: step * values.mean(-1).real  # noqa: E731
        self.full, self.half = np.exp(z), np.exp(z / 2)
        self.to_half = mean((np.exp(w / 2) - 1) / w)
        self.first = mean((-4 - w + np.exp(w) * (4 - 3 * w + w**2)) / w**3)
        self.middle = 2 * mean((2 + w + np.exp(w) * (w - 2)) / w**3)
        self.last = mean((-4 - 3 * w - w**2 + np.exp(w) * (4 - w)) / w**3)

    def advance(self, v: np.ndarray, nonlinear: Callable[[np.ndarray], np.ndarray], steps: int = 1) -> np.ndarray:
        """v after `steps` steps."""
        for _ in range(steps):
            start = nonlinear(v)
            decayed = self.half * v
            a = decayed + self.to_half * start
            at_a = nonlinear(a)
            at_b = nonlinear(decayed + self.to_half * at_a)
            at_c = nonlinear(self.half * a + self.to_half * (2 * at_b - start))
            v = self.full * v + self.first * start + self.middle * (at_a + at_b) + self.last * at_c
        return v
