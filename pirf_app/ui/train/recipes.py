"""From the controls of the Train tab to a recipe, and what a run of it takes on this machine."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...common.memory import free_memory, return_freed_memory
from ...methods.presets import SAMPLER, Estimate, check_fits, chunk_for, estimate, preset
from ...methods.registry import find_method
from ...methods.speed import Speed
from ...models.checkpoint import Checkpoint
from ...training.config import TuningConfig
from ..serving import gpu_training
from ..serving.lanes import Lanes, Line

LIMIT_SECONDS = 3600.0
SPEED_LASTS, JUST_NOW = 120.0, 1.0  # seconds
MEMORY_SHARE = 0.5  # of what is free now
PRESET_TITLES = {"30s": "30 seconds", "2m": "2 minutes", "10m": "10 minutes"}


def config_of(method: str, values: Mapping[str, Any]) -> TuningConfig:
    """The recipe that `values` ask for; a method takes those that it knows, and None stands for its default.

    Raises InputError."""
    kind = find_method(method)
    given = {k: values[k] for k in kind.settings if k in values and values[k] is not None and values[k] != ""}
    return kind.config(**{name: kind.settings[name].read(name, value) for name, value in given.items()})


class Recipes:
    """Measures this machine for every model and depth of training, in a turn of the lane, and again after a while:
    others use it too."""

    def __init__(self, lanes: Lanes):
        self.lanes, self.measuring = lanes, Line()
        self._speeds: dict[tuple, tuple[float, Speed]] = {}

    def speed(self, base: Checkpoint, method: str, config: Any, lasts: float = SPEED_LASTS) -> Speed:
        """The speed for a recipe, as measured no longer ago than `lasts` seconds."""
        key = (base.sha256, method, config.trainable, config.last_steps)

        def known() -> Speed | None:
            then, found = self._speeds.get(key, (-math.inf, None))
            return found if time.monotonic() - then <= lasts else None

        if found := known():
            return found
        with self.measuring.turn():
            if known() is None:  # whoever had the turn before may have measured it
                *_, found = self.lanes.steps(gpu_training.speed(base, config, method))
                self._speeds[key] = time.monotonic(), found
                return_freed_memory()
            return self._speeds[key][1]

    def recipe(self, base: Checkpoint, method: str, values: Mapping[str, Any]) -> Any:
        """The recipe that `values` ask for (`config_of`), with so few samples worked on at once that others, and Stop,
        have their turn soon. Raises InputError."""
        config = config_of(method, values)
        return replace(config, chunk=chunk_for(self.speed(base, method, config)))

    def preset(
        self, name: str, base: Checkpoint, method: str, values: Mapping[str, Any], lasts: float = SPEED_LASTS
    ) -> Any:
        """The recipe that fits the time which `name` stands for at a speed as of `speed`, with what presets leave alone
        as in `values`."""
        names = [k for k, known in find_method(method).settings.items() if not known.fitted]
        names = [k for k in names if base.info.parent is None or k not in SAMPLER]
        asked = config_of(method, {k: values.get(k) for k in names})
        kept = {k: getattr(asked, k) for k in names}
        first = preset(name, base, Speed(1, 1, 1, 0), method, **kept)
        return preset(name, base, self.speed(base, method, first, lasts), method, **kept)

    def estimate(self, base: Checkpoint, method: str, config: Any) -> Estimate:
        return estimate(base, config, self.speed(base, method, config))

    def check(self, base: Checkpoint, method: str, config: Any) -> Estimate:
        """What the run takes. Raises InputError, with the reason, if that is more than may be taken here."""
        found = self.estimate(base, method, config)
        check_fits(found, LIMIT_SECONDS, MEMORY_SHARE * free_memory())
        return found
