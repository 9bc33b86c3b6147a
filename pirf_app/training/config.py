"""What a fine-tuning run is asked for: what all methods share, and what is each one's own."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ..common.checks import InputError, check_seed, check_whole, shown
from ..diffusion.network import SUFFIXES
from ..diffusion.sampler import check_steps

BEST_BY = ("validation_solve_error", "validation_residual")


@dataclass(frozen=True)
class TuningConfig:
    """Recipe. `last_steps` is K: the tuned weights make the last K steps of a trajectory; `trainable` a suffix of the
    network ("last", "highres", "decoder", "all"); `pool` how much a run draws to learn from; `pool_steps` the step
    counts of the trajectories that it draws, in turn; `drift` weighs the change of the weights (mean square); `ema` is
    the most that the weight average keeps at an update (less early on); `chunk` how many samples are worked on between
    two events; `best_by` the validation figure that says which state was the best. Raises InputError for a value out of
    range."""

    updates: int = 900
    last_steps: int = 1
    trainable: str = "decoder"
    pool: int = 768
    pool_steps: tuple[int, ...] = (10,)
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 20
    drift: float = 1.0
    clip: float = 1.0
    ema: float = 0.99
    validate_every: int = 50
    validation: int = 32
    best_by: str = BEST_BY[0]
    chunk: int = 8
    seed: int = 0
    learns_from_data: ClassVar[bool] = False  # the pool is one of solver fields, not of trajectories
    short_rate: ClassVar[float] = 3e-4  # learning rate for a run of a few hundred samples

    def __post_init__(self):
        check_seed(self.seed)
        for name in ("updates", "last_steps", "pool", "batch", "warmup", "validate_every", "validation", "chunk"):
            check_whole(name, getattr(self, name), 1, 10**6)
        for name in ("learning_rate", "clip"):
            if not _is_number(getattr(self, name)) or not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number above 0, not {shown(getattr(self, name))}")
        self._check_weights("drift")
        if not _is_number(self.ema) or not 0 <= self.ema < 1:
            raise InputError(f"ema must be at least 0 and below 1, not {shown(self.ema)}")
        self._check_choice("trainable", SUFFIXES)
        self._check_choice("best_by", BEST_BY)
        steps = self.pool_steps
        if not isinstance(steps, tuple) or not steps or min(map(check_steps, steps)) <= self.last_steps:
            raise InputError(f"pool_steps must be step counts above last_steps ({self.last_steps}), not {shown(steps)}")
        if self.pool < len(steps):
            raise InputError(f"a pool of {self.pool} is too small for {len(steps)} step counts")

    def _check_weights(self, *names: str) -> None:
        for name in names:
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a finite number of at least 0, not {shown(getattr(self, name))}")

    def _check_choice(self, name: str, known: tuple[str, ...]) -> None:
        if not isinstance(getattr(self, name), str) or getattr(self, name) not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, not {shown(getattr(self, name))}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
