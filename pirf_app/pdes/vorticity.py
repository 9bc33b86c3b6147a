"""The solver behind Kolmogorov flow: two-dimensional vorticity on a periodic square of side 2 pi, pseudo-spectral.

w_t + u . grad w = lap w / Re - 0.1 w - 4 cos 4y; 2/3 rule, ETDRK4 in time, float64.
"""

from functools import lru_cache

import numpy as np
from scipy.fft import fft, ifft, irfft, rfft

from .spectral import Etdrk4, kept_modes

DT = 1 / 32
DRAG, FORCING, WAVE = 0.1, 4.0, 4
# From random vorticity, the mean energy and enstrophy over 24 trajectories at 64 are within the scatter of their final
# values (0.66 and 6.8) from time 24 on.
SPIN_UP = 28
# Between samples, time steps are as long as wavenumber times speed allows (ETDRK4 is stable up to 2.8); the spectrum is
# then that of half the step, to a few per cent at the last wavenumbers. From frame to frame they are shorter.
COURANT, COURANT_FRAMES = 2.2, 0.8
SLOW, FAST = 2.0, 3.5  # the speed of the fastest point is seldom outside


def reynolds(resolution: int) -> float:
    """The Reynolds number that a grid resolves: 100 up to 64 points, 250 up to 128, 1000 beyond."""
    return 100.0 if resolution <= 64 else 250.0 if resolution <= 128 else 1000.0


def frame_substeps(resolution: int) -> int:
    """Solver steps from one frame to the next: 3 at 64."""
    return max(1, round(kept_modes(resolution) * FAST * DT / COURANT_FRAMES))


class Waves:
    """The operators on an N-point grid as arrays over the wavenumbers of the real transform, `[N, columns]`, at a
    Reynolds number.

    `columns` are the first ones kept along x: (N-1)//3 + 1 in the solver, all N//2 + 1 in the residuals."""

    def __init__(self, resolution: int, columns: int, number: float):
        n, k = resolution, kept_modes(resolution)
        ky, kx = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.arange(columns), indexing="ij")
        squared = kx**2 + ky**2
        inverse = np.divide(1, squared, out=np.zeros_like(squared), where=squared > 0)
        kept = (np.abs(ky) <= k) & (kx <= k)
        # The Nyquist wavenumber stands for both signs, so its first derivative is zero.
        dy, dx = 1j * ky * (2 * np.abs(ky) < n), 1j * kx * (2 * kx < n)
        self.kept, self.inverse, self.gradient = kept, inverse, np.stack([dx, dy])
        self.velocity = np.stack([dy, -dx]) * inverse
        self.linear = -squared / number - DRAG
        # Advection is curl div (u u), from two products: u v and v^2 - u^2 (Basdevant, J. Comput. Phys. 50, 1983).
        self.curl = np.stack([kx**2 - ky**2, kx * ky]) * kept
        self.force = np.zeros((n, columns))
        self.force[[WAVE, -WAVE], 0] = -FORCING * n**2 / 2


@lru_cache(maxsize=8)
def all_waves(resolution: int, number: float) -> Waves:
    return Waves(resolution, resolution // 2 + 1, number)


class Simulator:
    """The dealiased solver on an N-point grid at a Reynolds number; states are transforms `[..., N, (N-1)//3 + 1]`
    complex128."""

    def __init__(self, resolution: int, number: float):
        self.n, self.columns, self.number = resolution, kept_modes(resolution) + 1, number
        self.waves = Waves(resolution, self.columns, number)
        self.velocity = self.waves.velocity * self.waves.kept
        self.steppers: dict[int, Etdrk4] = {}

    def transform(self, w: np.ndarray) -> np.ndarray:
        return fft(rfft(w)[..., : self.columns], axis=-2) * self.waves.kept

    def field(self, v: np.ndarray) -> np.ndarray:
        return irfft(ifft(v, axis=-2), self.n)

    def nonlinear(self, v: np.ndarray) -> np.ndarray:
        velocity = self.field(self.velocity * v[..., None, :, :])
        x, y = velocity[..., 0, :, :], velocity[..., 1, :, :]
        products = np.empty_like(velocity)
        np.multiply(x, y, out=products[..., 0, :, :])
        np.multiply(y - x, y + x, out=products[..., 1, :, :])
        products = fft(rfft(products)[..., : self.columns], axis=-2)
        products *= self.waves.curl
        return products[..., 0, :, :] + products[..., 1, :, :] + self.waves.force

    def advance(self, v: np.ndarray, steps: int, steps_per_unit: int) -> np.ndarray:
        if steps_per_unit not in self.steppers:
            self.steppers[steps_per_unit] = Etdrk4(self.waves.linear, 1 / steps_per_unit)
        return self.steppers[steps_per_unit].advance(v, self.nonlinear, steps)

    def run(self, v: np.ndarray, sixteenths: int) -> np.ndarray:
        """v some sixteenths of a unit of time later, in steps as long as the present speed allows."""
        speed = max(SLOW, np.abs(self.field(self.velocity * v[..., None, :, :])).max())
        steps = max(1, int(np.ceil((self.columns - 1) * speed / COURANT / 16)))
        return self.advance(v, steps * sixteenths, 16 * steps)

    def frames(self, v: np.ndarray) -> list[np.ndarray]:
        """v, and what it becomes 1/32 and 2/32 later."""
        substeps, states = frame_substeps(self.n), [v]
        for _ in range(2):
            states.append(self.advance(states[-1], substeps, round(substeps / DT)))
        return states

    def random_state(self, rng: np.random.Generator) -> np.ndarray:
        """Random vorticity of standard deviation 3.8, the steady regime's, at wavenumbers about 4."""
        v = self.transform(rng.standard_normal((self.n, self.n)))
        v *= np.exp((self.waves.linear + DRAG) * self.number / 32) * (self.waves.inverse > 0)
        return v * 3.8 / self.field(v).std()

    def trajectory(self, rng: np.random.Generator, snapshots: int) -> np.ndarray:
        """The first `snapshots` samples `[snapshots, 3, N, N]` of a trajectory. It is integrated alone, whatever else
        is drawn, so that a sample is the same to the last bit however many there are."""
        v = self.random_state(rng)
        samples: list[np.ndarray] = []
        for _ in range(SPIN_UP):
            v = self.run(v, 16)
        for _ in range(snapshots):
            if samples:
                v = self.run(v, 15)
            states = self.frames(v)
            samples.append(self.field(np.stack(states)))
            v = states[-1]
        return np.stack(samples)


@lru_cache(maxsize=8)
def simulator(resolution: int, number: float | None = None) -> Simulator:
    """At a Reynolds number (None: the one that the grid resolves)."""
    return Simulator(resolution, number or reynolds(resolution))
