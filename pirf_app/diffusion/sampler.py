"""Deterministic Heun sampler over Karras noise levels (arXiv 2206.00364, algorithm 1 with no churn)."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from ..pdes.base import InputError, check_seed
from ..pdes.random_fields import SAMPLING_NOISE, sample_noise

MAX_STEPS = 1000


def check_steps(steps: int) -> int:
    """`steps` itself if it is a whole number from 2 to 1000. Raises InputError otherwise."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= MAX_STEPS:
        raise InputError(f"steps must be a whole number from 2 to {MAX_STEPS}, not {steps!r}")
    return steps


@dataclass(frozen=True)
class Schedule:
    """Noise levels from sigma_max down to sigma_min, evenly spaced in sigma^(1/rho), then 0. Normalised units."""

    steps: int = 20
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        check_steps(self.steps)
        for name in ("sigma_min", "sigma_max", "rho"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise InputError(f"{name} must be a finite number, not {value!r}")
        if not 1e-4 <= self.sigma_min < self.sigma_max <= 1e4:
            raise InputError(
                f"sigma_min must be at least 0.0001 and below sigma_max, which is at most 10000, "
                f"not {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if not 1 <= self.rho <= 100:
            raise InputError(f"rho must be from 1 to 100, not {self.rho:g}")

    def with_steps(self, steps: int) -> "Schedule":
        return replace(self, steps=steps)

    def to_dict(self) -> dict:
        return asdict(self)

    def sigmas(self) -> Tensor:
        """`[steps + 1]` float64, decreasing, the last one 0."""
        ramp = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class SampleStep:
    """State after a step: number of the step (from 1), noise level reached, x and the latest denoised estimate
    `[n, c, N, N]` in normalised units, network evaluations so far."""

    step: int
    steps: int
    sigma: float
    x: Tensor
    denoised: Tensor
    nfe: int


def initial_noise(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise `[n, *shape]` float32 on the CPU; sample k depends only on (seed, k)."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n must be a whole number of at least 1, not {n!r}")
    check_seed(seed)
    return torch.from_numpy(sample_noise(n, shape, seed, SAMPLING_NOISE, np.float32))


def model_at(denoiser: Callable[[Tensor, Tensor], Tensor], sigma: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The model that makes the whole step which starts at `sigma`: `denoiser` itself unless it has stages (`at`)."""
    return denoiser.at(sigma) if hasattr(denoiser, "at") else denoiser


def heun_step(denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, following: Tensor):
    """One step from noise level `sigma` to `following` (Euler where that is 0): `(x, denoised, evaluations)`."""
    denoised = denoiser(x, sigma)
    if following == 0:
        return denoised, denoised, 1
    slope = (x - denoised) / sigma
    euler = x + (following - sigma) * slope
    denoised = denoiser(euler, following)
    return x + (following - sigma) * (slope + (euler - denoised) / following) / 2, denoised, 2


def heun(denoiser: Callable[[Tensor, Tensor], Tensor], noise: Tensor, schedule: Schedule) -> Iterator[SampleStep]:
    """Integrates the probability flow ODE dx/dsigma = (x - D(x; sigma)) / sigma from `noise [n, c, N, N]` (unit
    variance) to sigma = 0; second order. `denoiser(x, sigma)` takes sigma as a scalar tensor. The last step's `x` is
    the sample. The caller decides about gradients."""
    levels = schedule.sigmas().to(noise)
    x, nfe = noise * levels[0], 0
    for i in range(schedule.steps):
        x, denoised, evaluations = heun_step(model_at(denoiser, levels[i]), x, levels[i], levels[i + 1])
        nfe += evaluations
        yield SampleStep(i + 1, schedule.steps, levels[i + 1].item(), x, denoised, nfe)


@torch.no_grad()
def sample(denoiser: Callable[[Tensor, Tensor], Tensor], noise: Tensor, schedule: Schedule) -> tuple[Tensor, int]:
    """The last state of `heun`, without gradients, and the number of network evaluations."""
    *_, end = heun(denoiser, noise, schedule)
    return end.x, end.nfe
