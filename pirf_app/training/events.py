"""What a fine-tuning run tells while it goes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStep:
    """Trajectories or solver fields drawn so far, of how many, for the validation first and then for the pool; seconds
    since the start."""

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
class TuningStep:
    """One update: the method's loss, RMS residual of the batch, what holds the model (`anchor`: PIRF's change of the
    inputs; PIDM's denoising loss, 1 under the base model), RMS weight drift, learning rate, seconds. On validating
    updates also the averaged weights' RMS residual and median forward-solve error on held-out noise, and in words what
    is suspicious about them.

    Update 0 is the model that the run starts from: its residual is that of the held-out noise, and so are its loss and
    anchor where no data are needed for them."""

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


Event = PoolStep | Working | TuningStep


class DivergedError(RuntimeError):
    """Tuning produced a loss that is not finite; the last finite weights are kept."""
