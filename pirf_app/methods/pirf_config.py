"""What a PIRF run is asked for, and the events that it yields."""

import math
from dataclasses import dataclass

from ..diffusion.network import SUFFIXES
from ..diffusion.sampler import check_steps
from ..pdes import InputError
from ..pdes.base import check_seed, check_whole, shown
from .rewards import NORMS

BEST_BY = ("validation_solve_error", "validation_residual")


@dataclass(frozen=True)
class PirfConfig:
    """Recipe. `last_steps` is K; `trainable` a suffix of the network ("last", "highres", "decoder", "all");
    `pool_steps` the step counts whose trajectories the pool is drawn from, in turn; `error_weight` weighs the second
    norm of the reward, `hold` the distance in that norm from the baseline's samples, `anchor` that of the input
    channels (in units of the linear denoiser's error), `drift` the change of the weights (mean square); `ema` is the
    most that the weight average keeps at an update (less early on); `chunk` how many samples are worked on between two
    events; `best_by` the validation figure that says which state was the best."""

    updates: int = 900
    last_steps: int = 1
    trainable: str = "decoder"
    pool: int = 768
    pool_steps: tuple[int, ...] = (10,)
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 20
    norm: str = "two-norm"
    error_weight: float = 1.0
    hold: float = 0.0
    anchor: float = 1.0
    drift: float = 1.0
    clip: float = 1.0
    ema: float = 0.99
    validate_every: int = 50
    validation: int = 32
    best_by: str = BEST_BY[0]
    chunk: int = 8
    seed: int = 0

    def __post_init__(self):
        check_seed(self.seed)
        for name in ("updates", "last_steps", "pool", "batch", "warmup", "validate_every", "validation", "chunk"):
            check_whole(name, getattr(self, name), 1, 10**6)
        for name in ("learning_rate", "clip"):
            if not _is_number(getattr(self, name)) or not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number above 0, not {shown(getattr(self, name))}")
        for name in ("error_weight", "hold", "anchor", "drift"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0, not {shown(getattr(self, name))}")
        if not _is_number(self.ema) or not 0 <= self.ema < 1:
            raise InputError(f"ema must be at least 0 and below 1, not {shown(self.ema)}")
        for name, known in (("norm", NORMS), ("trainable", SUFFIXES), ("best_by", BEST_BY)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, not {shown(getattr(self, name))}")
        if not self.pool_steps or min(map(check_steps, self.pool_steps)) <= self.last_steps:
            raise InputError(
                f"pool_steps must be step counts above last_steps ({self.last_steps}), not {self.pool_steps}"
            )
        if self.pool < len(self.pool_steps):
            raise InputError(f"a pool of {self.pool} is too small for {len(self.pool_steps)} step counts")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class PoolStep:
    """Trajectories drawn so far, of how many, for the validation first and then for the pool; seconds since the
    start."""

    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Working:
    """A sign of life inside a long step: samples done, of how many, of the update or validation after `update`;
    seconds since the start."""

    update: int
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class PirfStep:
    """One update: loss (1 + error_weight before tuning), RMS residual of the batch, change of the inputs, RMS weight
    drift, learning rate, seconds; on validating updates also the averaged weights' RMS residual and median
    forward-solve error on held-out noise, and in words what is suspicious about them.

    Update 0 is the model that the run starts from: its loss, residual and inputs are those of the held-out noise."""

    update: int
    updates: int
    loss: float
    residual_rms: float
    anchor: float
    drift: float
    learning_rate: float
    seconds: float
    validation_residual: float | None = None
    validation_solve_error: float | None = None
    warning: str | None = None


class DivergedError(RuntimeError):
    """Tuning produced a loss that is not finite; the last finite weights are kept."""
