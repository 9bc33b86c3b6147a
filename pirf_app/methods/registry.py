"""Which fine-tuning methods there are."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from ..common.checks import InputError, shown
from ..training.config import TuningConfig
from ..training.loop import TuningLoop
from .pidm import PidmTuning
from .pirf import PirfTuning


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: how it is named, what it does in a few words, and its run."""

    title: str
    does: str
    tuning: type[TuningLoop]
    rewarded: bool = False  # minus its loss is called a reward

    @property
    def config(self) -> type[TuningConfig]:
        """The class of its recipe."""
        return self.tuning.config_class

    @property
    def settings(self) -> list[str]:
        """What a recipe may say."""
        return [known.name for known in fields(self.config)]

    def check_settings(self, names: Iterable[str]) -> None:
        """Raises InputError, naming one of `names` that a recipe of this method may not say."""
        unknown = sorted(set(names) - set(self.settings))
        if unknown:
            raise InputError(f"{self.title} has no setting {unknown[0].replace('_', '-')!r}")


METHODS = {
    method.tuning.method: method
    for method in (
        Method("PIRF", "with the physics reward on its samples (PIRF, arXiv 2509.20570)", PirfTuning, True),
        Method("PIDM", "on solver data with the residual in its loss (PIDM, arXiv 2403.14404)", PidmTuning),
    )
}
SETTINGS = {name for method in METHODS.values() for name in method.settings}  # of any of them


def find_method(name: str) -> Method:
    """The method called `name`. Raises InputError, naming those there are."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown fine-tuning method {shown(name)}: choose {', '.join(METHODS)}")
    return METHODS[name]
