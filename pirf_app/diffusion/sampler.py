"""Deterministic samplers over Karras noise levels, as generators.

`heun`: second-order Heun (arXiv 2206.00364, algorithm 1 with no churn), two evaluations a step.
`multistep`: one evaluation a step. In the modes of the denoiser's Gaussian (`prior.py`) the probability flow ODE is
dy / dtheta = -F; F is extrapolated from the last two evaluations as in DPM-Solver++ 2M (arXiv 2211.01095), and the
step in theta = arctan(sigma / sqrt v) is exact in every mode. Gaussian data are sampled exactly in any number of steps,
and for one isotropic variance it is 2M in the trigonometric form of arXiv 2410.11081.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from ..common.checks import InputError, check_seed, check_whole, shown
from ..common.memory import synchronise
from ..common.streams import SAMPLING_NOISE, sample_noise
from .prior import IsotropicPrior, Prior

MAX_STEPS = 1000
# Each with the least number of steps in which it gives samples at all: Heun's method in fewer steps across all noise
# levels leaves fields of amplitudes that no data has.
SOLVERS = {"heun": 5, "multistep": 2}
LEAST_STEPS = min(SOLVERS.values())
PLAIN = IsotropicPrior(1, 1)  # for every denoiser that has no Gaussian of its own
Model = Callable[[Tensor, Tensor], Tensor]


def check_steps(steps: int) -> int:
    """`steps` itself if it is a whole number from 2 to 1000. Raises InputError otherwise."""
    return check_whole("steps", steps, LEAST_STEPS, MAX_STEPS)


@dataclass(frozen=True)
class Schedule:
    """Noise levels from sigma_max down to sigma_min, evenly spaced in sigma^(1/rho), then 0, and the solver that steps
    through them. Normalised units."""

    steps: int = 20
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    rho: float = 7.0
    solver: str = "heun"

    def __post_init__(self):
        check_steps(self.steps)
        for name in ("sigma_min", "sigma_max", "rho"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise InputError(f"{name} must be a finite number, not {shown(value)}")
        if not 1e-4 <= self.sigma_min < self.sigma_max <= 1e4:
            raise InputError(
                f"sigma_min must be at least 0.0001 and below sigma_max, which is at most 10000, "
                f"not {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if self.solver not in tuple(SOLVERS):  # what a file says need not be hashable
            raise InputError(f"the solver must be one of {', '.join(SOLVERS)}, not {shown(self.solver)}")
        if not 1 <= self.rho <= 100:
            raise InputError(f"rho must be from 1 to 100, not {self.rho:g}")

    @property
    def least_steps(self) -> int:
        """The number of steps below which the solver gives no samples."""
        return SOLVERS[self.solver]

    def with_steps(self, steps: int) -> "Schedule":
        return replace(self, steps=steps)

    def evaluations(self, done: int) -> int:
        """Network evaluations in the first `done` steps."""
        return done if self.solver == "multistep" else 2 * done - (done == self.steps)

    def to_dict(self) -> dict:
        return asdict(self)

    def sigmas(self) -> Tensor:
        """`[steps + 1]` float64, decreasing, the last one 0."""
        ramp = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class State:
    """Where a trajectory stands: the noisy field x `[n, c, N, N]`, and what the solver keeps of its last evaluation."""

    x: Tensor
    memory: Tensor | None = None


@dataclass(frozen=True)
class SampleStep:
    """State after a step: number of the step (from 1), noise level reached, x and the latest denoised estimate
    `[n, c, N, N]` in normalised units; network evaluations and seconds so far that the model would have taken alone."""

    step: int
    steps: int
    sigma: float
    state: State
    denoised: Tensor
    nfe: int
    seconds: float

    @property
    def x(self) -> Tensor:
        return self.state.x


def initial_noise(n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise `[n, *shape]` float32 on the CPU; sample k depends only on (seed, k)."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n must be a whole number of at least 1, not {shown(n)}")
    check_seed(seed)
    return torch.from_numpy(sample_noise(n, shape, seed, SAMPLING_NOISE, np.float32))


def model_at(denoiser: Model, sigma: Tensor) -> Model:
    """The model that makes the whole step which starts at `sigma`: `denoiser` itself unless it has stages (`at`)."""
    return denoiser.at(sigma) if hasattr(denoiser, "at") else denoiser


def evaluations_of(model: Model) -> int:
    """What one call of `model` costs, in network evaluations; one that goes back through its network says more."""
    return getattr(model, "evaluations", 1)


def prior_of(denoiser: Model) -> Prior:
    """The Gaussian that a model is built around; isotropic for one that has none."""
    return getattr(denoiser, "prior", None) or PLAIN


def start(denoiser: Model, noise: Tensor, sigma: Tensor) -> State:
    """`noise` (unit variance) as a draw from the model's Gaussian under noise of level `sigma`."""
    prior = prior_of(model_at(denoiser, sigma))
    return State(prior.mean_field.to(noise) + prior.filter(noise, lambda v: (v + sigma**2).sqrt()))


def heun_step(denoiser: Model, state: State, sigma: Tensor, following: Tensor) -> tuple[State, Tensor]:
    """From noise level `sigma` to `following`, which is not 0: the state there and the denoised estimate."""
    x = state.x
    slope = (x - denoiser(x, sigma)) / sigma
    euler = x + (following - sigma) * slope
    denoised = denoiser(euler, following)
    return State(x + (following - sigma) * (slope + (euler - denoised) / following) / 2), denoised


def multistep_step(
    denoiser: Model, state: State, sigma: Tensor, following: Tensor, before: Tensor | None
) -> tuple[State, Tensor]:
    """As `heun_step`; `before` is the noise level that the previous step started at, and `state.memory` its F."""
    prior = prior_of(denoiser)
    denoised = denoiser(state.x, sigma)
    centre = prior.mean_field.to(state.x)
    y = prior.filter(state.x - centre, lambda v: (v + sigma**2).rsqrt())
    output = prior.filter(denoised - centre, lambda v: ((v + sigma**2) / v).sqrt() / sigma)
    output = output - prior.filter(y, lambda v: v.sqrt() / sigma)
    ahead = output
    if state.memory is not None and before is not None:
        ratio = (sigma / following).log() / (before / sigma).log()
        ahead = output + ratio / 2 * (output - state.memory)
    turn = lambda v: torch.atan2(sigma, v.sqrt()) - torch.atan2(following, v.sqrt())  # noqa: E731
    y = y + prior.filter(ahead, turn)
    return State(centre + prior.filter(y, lambda v: (v + following**2).sqrt()), output), denoised


def advance(denoiser: Model, state: State, schedule: Schedule, levels: Tensor, i: int) -> tuple[State, Tensor]:
    """Step number i (from 0) of `schedule`, whose sigmas are `levels`; the last one is the denoised estimate itself."""
    sigma, following = levels[i], levels[i + 1]
    model = model_at(denoiser, sigma)
    if following == 0:
        denoised = model(state.x, sigma)
        return State(denoised), denoised
    if schedule.solver == "heun":
        return heun_step(model, state, sigma, following)
    return multistep_step(model, state, sigma, following, levels[i - 1] if i else None)


def together(denoisers: Sequence[Model], noise: Tensor, schedule: Schedule) -> Iterator[tuple[SampleStep, ...]]:
    """Integrates the probability flow ODE dx/dsigma = (x - D(x; sigma)) / sigma from the same `noise [n, c, N, N]`
    (unit variance) to sigma = 0 under several models; yields one `SampleStep` for each after every step.

    `denoiser(x, sigma)` takes sigma as a scalar tensor. What models have in common (a tuned one and its parent, down
    to the handover) is computed once; `nfe` and `seconds` count for each what it takes alone. The caller decides about
    gradients."""
    levels = schedule.sigmas().to(noise)
    beginning: dict[int, State] = {}
    for denoiser in denoisers:
        beginning.setdefault(id(prior_of(model_at(denoiser, levels[0]))), start(denoiser, noise, levels[0]))
    states = [beginning[id(prior_of(model_at(denoiser, levels[0])))] for denoiser in denoisers]
    spent = [(0, 0.0)] * len(denoisers)
    for i in range(schedule.steps):
        models = [model_at(denoiser, levels[i]) for denoiser in denoisers]
        calls = schedule.evaluations(i + 1) - schedule.evaluations(i)
        done: dict[tuple[int, int], tuple[State, Tensor, float]] = {}
        for model, state in zip(models, states, strict=True):
            if (id(model), id(state)) not in done:
                began = time.perf_counter()
                reached = advance(model, state, schedule, levels, i)
                synchronise(noise.device)
                done[id(model), id(state)] = *reached, time.perf_counter() - began
        ends = [done[id(model), id(state)] for model, state in zip(models, states, strict=True)]
        spent = [
            (nfe + calls * evaluations_of(model), seconds + took)
            for (nfe, seconds), model, (_, _, took) in zip(spent, models, ends, strict=True)
        ]
        states = [state for state, _, _ in ends]
        sigma = levels[i + 1].item()
        yield tuple(
            SampleStep(i + 1, schedule.steps, sigma, state, denoised, *cost)
            for (state, denoised, _), cost in zip(ends, spent, strict=True)
        )


def trajectory(denoiser: Model, noise: Tensor, schedule: Schedule) -> Iterator[SampleStep]:
    """`together` for one model."""
    for (step,) in together([denoiser], noise, schedule):
        yield step


@torch.no_grad()
def sample(denoiser: Model, noise: Tensor, schedule: Schedule) -> tuple[Tensor, int]:
    """The last state of `trajectory`, without gradients, and the number of network evaluations."""
    *_, end = trajectory(denoiser, noise, schedule)
    return end.x, end.nfe
