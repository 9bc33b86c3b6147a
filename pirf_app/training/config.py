"""What a fine-tuning run is asked for: what there is to say of a setting, and the settings that all methods share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from ..common.checks import MAX_SEED, InputError, shown, whole_list, whole_number
from ..diffusion.network import SUFFIXES
from ..diffusion.sampler import MAX_STEPS
from ..evaluation.comparison import STEPS_RANGE
from ..models.checkpoint import Checkpoint

LAYERS = dict(zip(SUFFIXES, ("Last layer", "High-resolution decoder", "Decoder", "All layers"), strict=True))
BEST_BY = {"validation_solve_error": "forward-solve error", "validation_residual": "residual"}
MANY = 10**6
JSON_WHOLE = 2**53  # JSON keeps whole numbers up to there
Value = TypeVar("Value", int, float, str, tuple[int, ...])


@dataclass(frozen=True)
class Setting:
    """What there is to say of a setting of a recipe: checks, the option of the command line, the parameter of the HTTP
    endpoint and the control on the page all come from here.

    `kind` is the type of its values: int, float, str (one of `choices`, whose values are their titles) or tuple (of
    whole numbers). `label` is its name on the page; what has none is for the command line alone. `shared` are narrower
    bounds, for a machine that serves many. Presets choose what is `fitted` and keep the rest. `flag` is a letter for
    the command line."""

    kind: type
    help: str
    label: str
    low: float | None = None  # and at least,
    above: float | None = None  # or above;
    high: float | None = None  # and at most,
    below: float | None = None  # or below
    choices: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[int, int] | None = None
    fitted: bool = False
    flag: str = ""

    @property
    def is_long(self) -> bool:
        """Whether it may have more digits than a field for numbers, or JSON, is good for."""
        return self.kind is int and self.high is not None and self.high > JSON_WHOLE

    @property
    def is_number(self) -> bool:
        return self.kind in (int, float) and not self.is_long

    @property
    def narrowed(self) -> "Setting":
        """The same on a machine that serves many."""
        return replace(self, low=self.shared[0], high=self.shared[1]) if self.shared else self

    @property
    def bounds(self) -> str:
        """What it must be, in words."""
        if self.kind is str:
            return f"one of {', '.join(self.choices)}"
        if self.kind is float:
            limits = {"of at least": self.low, "above": self.above, "of at most": self.high, "below": self.below}
            return "a finite number " + " and ".join(f"{k} {v:g}" for k, v in limits.items() if v is not None)
        several = "a whole number" if self.kind is int else "whole numbers"
        return f"{several} from {self.low} to {'2^63 - 1' if self.is_long else self.high}"

    def check(self, name: str, value: object) -> None:
        """Raises InputError for a value out of bounds."""
        parts = value if self.kind is tuple and isinstance(value, tuple) else (value,)
        if not parts or not all(map(self._takes, parts)) or isinstance(value, tuple) != (self.kind is tuple):
            raise InputError(f"{name} must be {self.bounds}, not {shown(value)}")

    def _takes(self, value: object) -> bool:
        """Of several numbers, one."""
        if self.kind is str:
            return isinstance(value, str) and value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float if self.kind is float else int):
            return False
        low, above = (-math.inf if bound is None else bound for bound in (self.low, self.above))
        high, below = (math.inf if bound is None else bound for bound in (self.high, self.below))
        return low <= value <= high and above < value < below

    def read(self, name: str, entered: object) -> Any:
        """What was entered on a machine that serves many: 10.0 counts as 10, and text where numbers have no room for
        it. Raises InputError for a whole number out of bounds; the recipe checks the rest."""
        if self.kind in (str, float):
            return entered
        bounds = self.narrowed
        low, high = int(bounds.low or 0), int(bounds.high or MANY)
        if self.kind is int:
            return whole_number(name, entered, low, high, text=self.is_long)
        return tuple(whole_number(f"each of {name}", one, low, high) for one in whole_list(name, entered))

    @property
    def entered(self) -> Any:
        """The type of what may be entered for it, or not."""
        return str | None if self.kind is tuple else self.kind | None

    @staticmethod
    def written(value: object) -> str:
        """A value as the command line takes it."""
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def setting(default: Value, help: str, label: str = "", **said: Any) -> Value:
    """A field of a recipe, with all that there is to say of it (see `Setting`). The type of the default is that of its
    values: 1.0 for any number, 1 for whole ones, from 1 to a million unless `low` and `high` are given."""
    kind = type(default)
    if kind not in (int, float, str, tuple):
        raise TypeError(f"a setting is a number, a choice or several whole numbers, not {shown(default)}")
    limits = {"low": 1, "high": MANY} if kind in (int, tuple) else {}
    return field(default=default, metadata={"setting": Setting(kind, help, label, **limits | said)})


@dataclass(frozen=True)
class TuningConfig:
    """Recipe; what a setting means is said beside it. Of the trajectories that end in the pool, `pool_steps` are the
    step counts, in turn; `drift` weighs the mean square change of the weights. A method adds settings of its own, and
    may give a shared one another default by its bare value. Raises InputError for a value out of range."""

    updates: int = setting(900, "updates, over which the learning rate decays", "Updates", fitted=True)
    last_steps: int = setting(
        1, "steps that the tuned weights make, K, at the end of a trajectory", "K, last steps", shared=(1, 10), flag="k"
    )
    trainable: str = setting("decoder", "part of the network to train", "Trainable layers", choices=LAYERS)
    pool: int = setting(768, "trajectories, or solver fields, to draw and to learn from", "Pool", fitted=True)
    pool_steps: tuple[int, ...] = setting(
        (10,), "sampler steps of the trajectories", "Sampler steps", low=2, high=MAX_STEPS, shared=STEPS_RANGE
    )
    batch: int = setting(16, "samples an update", "Batch", fitted=True)
    learning_rate: float = setting(1e-3, "learning rate after the warm-up", "Learning rate", above=0, fitted=True)
    warmup: int = setting(20, "updates until the learning rate is reached", "Warm-up", fitted=True)
    drift: float = setting(1.0, "weight that holds the network's weights", "Drift weight", low=0)
    clip: float = setting(1.0, "largest norm of the gradient", "Clip gradient at", above=0)
    ema: float = setting(
        0.99, "most that the weight average keeps at an update (less early on)", "Average", low=0, below=1, fitted=True
    )
    validate_every: int = setting(50, "updates between validations", "Check every", fitted=True)
    validation: int = setting(32, "held-out trajectories", "Held-out", fitted=True)
    best_by: str = setting("validation_solve_error", "what the best state is best at", "Best state by", choices=BEST_BY)
    chunk: int = setting(8, "samples worked on at once", fitted=True)
    seed: int = setting(0, "seed of noise and batches", "Seed", low=0, high=MAX_SEED)
    learns_from_data: ClassVar[bool] = False  # the pool is one of solver fields, not of trajectories
    calibrated: ClassVar[int] = 0  # of those, how many are evaluated once before the first update, for units
    short_rate: ClassVar[float] = 3e-4  # learning rate for a run of a few hundred samples

    def __post_init__(self) -> None:
        for name, known in settings_of(type(self)).items():
            known.check(name, getattr(self, name))
        steps = self.pool_steps
        if min(steps) <= self.last_steps:
            raise InputError(f"pool_steps must be step counts above last_steps ({self.last_steps}), not {shown(steps)}")
        if self.pool < len(steps):
            raise InputError(f"a pool of {self.pool} is too small for {len(steps)} step counts")

    @classmethod
    def for_short_runs(cls, base: Checkpoint, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a preset of a few hundred samples chooses for a run from `base`, beside what every preset does; `asked`
        are the settings that someone has chosen."""
        return {"learning_rate": cls.short_rate}


def settings_of(config: type[TuningConfig]) -> dict[str, Setting]:
    """All that is said of a recipe's settings, by name. Raises TypeError for a field that nothing is said of."""
    found: dict[str, Setting] = {}
    for known in fields(config):
        # A default of a subclass is a field of its own, and what is said of it stays what its parents say.
        said = (getattr(c, "__dataclass_fields__", {}).get(known.name) for c in config.__mro__)
        about = next((f.metadata["setting"] for f in said if f is not None and "setting" in f.metadata), None)
        if about is None:
            raise TypeError(f"{config.__name__} says nothing of its field {known.name}: make it a `setting`")
        found[known.name] = about
    return found
