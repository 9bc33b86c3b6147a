"""Which fine-tuning methods there are, and which settings their recipes have."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ..common.checks import InputError, shown
from ..evaluation.verdicts import TITLES
from ..training.config import Setting, TuningConfig, settings_of
from ..training.loop import TuningLoop

DEFAULT = "pirf"  # what is meant where no method is named; it comes first
Run = TypeVar("Run", bound=TuningLoop)


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: how it is named, what it does in a few words ("A model is tuned ..."), where it is from,
    and its run."""

    title: str
    does: str
    source: str
    tuning: type[TuningLoop]
    rewarded: bool = False  # minus its loss is called a reward

    @property
    def config(self) -> type[TuningConfig]:
        """The class of its recipe."""
        return self.tuning.config_class

    @property
    def settings(self) -> dict[str, Setting]:
        """What a recipe may say."""
        return settings_of(self.config)

    def check_settings(self, names: Iterable[str]) -> None:
        """Raises InputError, naming one of `names` that a recipe of this method may not say."""
        unknown = sorted(set(names) - set(self.settings))
        if unknown:
            raise InputError(f"{self.title} has no setting {unknown[0].replace('_', '-')!r}")


METHODS: dict[str, Method] = {}
SETTINGS: dict[str, Setting] = {}  # of any of them; those that all share come first


def register(title: str, does: str, source: str, rewarded: bool = False) -> Callable[[type[Run]], type[Run]]:
    """Class decorator for the run of a method: makes it available under `cls.method`. Raises ValueError for a setting
    that another method has with values of another kind."""

    def add(cls: type[Run]) -> type[Run]:
        method = Method(title, does, source, cls, rewarded)
        for name, known in method.settings.items():
            other = SETTINGS.setdefault(name, known)
            if (other.kind, other.choices) != (known.kind, known.choices):
                raise ValueError(f"{title} and another method mean different things by {name}: choose another name")
        METHODS[cls.method] = method
        TITLES.setdefault(cls.method, title)
        return cls

    return add


def default_of(name: str) -> str:
    """What a setting is unless it is given, by method where they differ or some do not have it."""
    found = {m.title: m.settings[name].written(getattr(m.config, name)) for m in METHODS.values() if name in m.settings}
    if len(found) == len(METHODS) and len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{title} {value}" for title, value in found.items())


def find_method(name: str) -> Method:
    """The method called `name`. Raises InputError, naming those there are."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown fine-tuning method {shown(name)}: choose {', '.join(METHODS)}")
    return METHODS[name]
