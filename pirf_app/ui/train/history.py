"""What a run has told of itself, and the panels that are drawn from it."""

import time
from collections import deque
from dataclasses import dataclass, field, replace

from ...common.text import percent
from ...training.events import TuningStep
from ..drawing.charts import Chart, Curve, draw, key, smooth, updates_axis

RECENT, LEAST = 20, 1.0  # updates that the speed is taken from, and seconds


@dataclass
class History:
    """The events of a run called `name`, of `updates` updates, whose loss is shown as minus a reward if it is
    `rewarded`; `references` are named levels to draw across a figure, by figure ("residual", "error")."""

    name: str
    updates: int
    references: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    rewarded: bool = True
    steps: list[TuningStep] = field(default_factory=list)
    clock: deque = field(default_factory=lambda: deque(maxlen=RECENT))  # (update, time) of late

    def add(self, step: TuningStep) -> None:
        """Adds an event; a run that goes on from before its latest events repeats those."""
        self.cut(step.update - 1)
        self.steps.append(step)
        self.clock.append((step.update, time.monotonic()))

    def cut(self, update: int) -> None:
        """Forgets what came after that update."""
        while self.steps and self.steps[-1].update > update:
            self.steps.pop()

    def column(self, name: str) -> list[float]:
        """One figure of every update but number 0, which is the model that the run started from."""
        return [getattr(step, name) for step in self.steps if step.update]

    @property
    def held(self) -> list[TuningStep]:
        """The events that hold figures on held-out noise, the model before the run first."""
        return [step for step in self.steps if step.validation_residual is not None]

    @property
    def done(self) -> int:
        return self.steps[-1].update if self.steps else 0

    @property
    def warning(self) -> str | None:
        return self.held[-1].warning if self.held else None

    def speed(self) -> float | None:
        """Updates a second, lately, by the clock on the wall: others may be computing too."""
        if not self.clock:
            return None
        (first, began), (last, ended) = self.clock[0], self.clock[-1]
        return (last - first) / (ended - began) if ended - began >= LEAST else None

    def curves(self, figure: str, sign: int = 1, run: int = 0) -> list[Curve]:
        """A figure of every update: as it is, and smoothed. Of a run laid over another one the smoothed curve only."""
        x, y = [step.update for step in self.steps if step.update], [sign * v for v in self.column(figure)]
        whose = f" ({self.name})" if run else ""
        made = [Curve(f"smoothed{whose}", x, smooth(y), "smooth", run)]
        return made if run else [Curve("each update", x, y, "raw"), *made]

    def held_out(self, figure: str, run: int = 0) -> Curve:
        whose = f" ({self.name})" if run else ""
        found = [getattr(step, figure) for step in self.held]
        return Curve(f"held-out{whose}", [step.update for step in self.held], found, "held", run)


def precise(share: float) -> str:
    """A share in percent, to three digits: small changes are what a run is about."""
    return f"{100 * share:#.3g} %".replace(". ", " ")


def figure(value: float | None, write=lambda v: f"{v:.3g}") -> str:
    return "" if value is None else write(value)


def charts(history: History, other: History | None = None) -> str:
    """The four panels of a run, with those of another run laid over them, as HTML."""
    both = [(history, 0)] + ([(other, 1)] if other else [])
    last = history.held[-1] if history.held else None
    latest = history.steps[-1] if history.done else None

    def every(name: str, sign: int = 1) -> list[Curve]:
        return [curve for which, run in reversed(both) for curve in which.curves(name, sign, run)]

    def held(name: str) -> list[Curve]:
        return [which.held_out(name, run) for which, run in reversed(both)]

    drift = [replace(c, look="smooth") for c in every("drift") if c.look == "raw" or c.run]  # it has no noise
    title, sign = ("Reward", -1) if history.rewarded else ("Loss", 1)
    alike = [which for which, _ in both if which.rewarded == history.rewarded]
    objective = [curve for curve in every("loss", sign) if curve.run == 0 or len(alike) == 2]
    panels = [
        Chart(title, figure(latest and smooth([sign * s.loss for s in history.steps if s.update])[-1]), objective),
        Chart(
            "Residual RMS",
            figure(last and last.validation_residual),
            every("residual_rms") + held("validation_residual"),
            history.references.get("residual", ()),
            log=True,
        ),
        Chart(
            "Forward-solve error",
            figure(last and last.validation_solve_error, precise),
            held("validation_solve_error"),
            history.references.get("error", ()),
            log=True,
            write=percent,
        ),
        Chart("Weight drift", figure(latest and latest.drift), drift),
    ]
    axis = updates_axis(max(history.updates, other.done if other else 0))
    legend = [("raw run0", "each update"), ("smooth run0", "smoothed"), ("held run0", "held-out noise")]
    drawn = "".join(draw(p, axis) for p in panels)
    legend += [("reference", "reference")] if 'class="reference"' in drawn else []
    legend += [("smooth run1", other.name)] if other else []
    keys = "".join(key(look, text) for look, text in legend)
    return f'<div class="keys">{keys}</div><div class="charts">{drawn}</div>'
