"""What a PIRF run is asked for, and the events that it yields."""

import math
from dataclasses import dataclass

from ..diffusion.network import SUFFIXES
from ..diffusion.sampler import check_steps
from ..pdes import InputError
from ..pdes.base import check_seed
from .rewards import NORMS


@dataclass(frozen=True)
class PirfConfig:
    """Recipe. `last_steps` is K; `trainable` a suffix of the network ("last", "highres", "decoder", "all");
    `pool_steps` the step counts whose trajectories the pool is drawn from, in turn; `anchor` and `drift` weigh the
    change of the input channels (in units of the linear denoiser's error) and of the weights (mean square);
    `error_weight` the second norm of the reward."""

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
    anchor: float = 1.0
    drift: float = 1.0
    clip: float = 1.0
    ema: float = 0.99
    validate_every: int = 50
    validation: int = 32
    seed: int = 0

    def __post_init__(self):
        check_seed(self.seed)
        for name in ("updates", "last_steps", "pool", "batch", "warmup", "validate_every", "validation"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**6:
                raise InputError(f"{name} must be a whole number from 1 to 1000000, not {value!r}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number above 0, not {getattr(self, name)!r}")
        for name in ("error_weight", "anchor", "drift"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0, not {getattr(self, name)!r}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be at least 0 and below 1, not {self.ema!r}")
        if self.norm not in NORMS:
            raise InputError(f"norm must be one of {', '.join(NORMS)}, not {self.norm!r}")
        if self.trainable not in SUFFIXES:
            raise InputError(f"trainable must be one of {', '.join(SUFFIXES)}, not {self.trainable!r}")
        if not self.pool_steps or min(map(check_steps, self.pool_steps)) <= self.last_steps:
            raise InputError(
                f"pool_steps must be step counts above last_steps ({self.last_steps}), not {self.pool_steps}"
            )


# Settings that end in about the named time on two CPU cores at 64x64.
PRESETS = {
    "30s": {"updates": 20, "pool": 32, "validation": 16, "validate_every": 10},
    "2m": {"updates": 100, "pool": 96, "validation": 32, "validate_every": 25},
    "10m": {"updates": 600, "pool": 384, "validation": 32, "validate_every": 50},
}


@dataclass(frozen=True)
class PoolStep:
    """States drawn so far, of how many; seconds since the start."""

    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class PirfStep:
    """One update: loss (1 + error_weight before tuning), RMS residual of the batch, change of the inputs, RMS weight
    drift, learning rate, seconds; on validating updates also the averaged weights' RMS residual and median
    forward-solve error on held-out noise."""

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


class DivergedError(RuntimeError):
    """Tuning produced a loss that is not finite; the last finite weights are kept."""
