"""A visitor's training run: the work, a slice at a time, and what it leaves behind."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...common.checks import InputError
from ...common.memory import return_freed_memory
from ...models.checkpoint import Checkpoint
from ...training.config import TuningConfig
from ...training.events import DivergedError, PoolStep, TuningStep
from ..serving import gpu, gpu_training
from ..serving.lanes import Lanes
from ..serving.own_models import MAX_MODELS, MAX_NAME, OwnModel, OwnModels
from .history import History

GOING = ("waiting", "drawing", "tuning")  # others: stopped, complete, diverged, failed
PREVIEW_SECONDS = 2.5  # at most one pair of samples in this time,
PREVIEW_SHARE = 8  # nor in less than so many times what the last one took
PREVIEW_SAMPLES = 4
FAILED = "the training failed; the server's log says why"


@dataclass
class TrainingRun:
    """One run. `build` makes the library's run object, `restore` reads it back from the file in which it is kept
    between a stop and a resume: memory holds it only while it works."""

    name: str
    pde: str
    words: str
    base: Checkpoint
    method: str
    config: TuningConfig
    history: History
    folder: Path
    build: Callable[[], Any]
    restore: Callable[[Path], Any]
    command: str = ""
    phase: str = "waiting"
    outcome: str = "stopped"  # the phase that `finish` leaves the run in
    drawn: tuple[int, int] = (0, 0)
    message: str = ""
    samples: tuple[torch.Tensor, torch.Tensor] | None = None  # physical fields before and after
    version: int = 0  # counts the pairs of samples,
    shown: int = 0  # and is the last one that the page got
    sample: int = 0  # the one on show
    models: dict[str, OwnModel] = field(default_factory=dict)
    wanted: bool = True
    claimed: bool = False
    tuning: Any = None
    _preview: tuple[float, float] = (0.0, 0.0)  # when the last pair was made, and how long it took

    @property
    def going(self) -> bool:
        return self.phase in GOING

    @property
    def resumable(self) -> bool:
        return self.phase == "stopped" and self.state.exists()

    @property
    def state(self) -> Path:
        """The file that a stopped run goes on from; named as the command line expects it beside the result."""
        return self.folder / f"{self.name}.state"

    def claim(self) -> bool:
        """Whether the caller is the one to make the run work: the first one to ask."""
        first, self.claimed = not self.claimed and self.phase == "waiting", True
        return first

    def again(self) -> bool:
        """Gets a stopped run ready to go on; whether there is anything to go on with."""
        if self.resumable:
            self.phase, self.wanted, self.claimed, self.message = "waiting", True, False, ""
        return self.phase == "waiting"

    def stop(self) -> None:
        """Asks the run to end; it does so within a slice, and at once if nobody has made it work yet."""
        self.wanted = False
        if self.claim():
            self.phase = "stopped"

    def work(self, lanes: Lanes) -> Iterator[None]:
        """Runs until the end, until `stop`, or until the reader goes away; yields after every slice. `finish` is what
        keeps what was learned and ends the run. Raises InputError for settings that cannot be used."""
        self.outcome = "stopped"
        if not self.wanted:
            return
        try:
            self.tuning = lanes.do(lambda: self.restore(self.state) if self.state.exists() else self.build())
            self.history.clock.clear()
            self.phase = "drawing"
            yield
            for events in lanes.slices(self.while_wanted(gpu_training.events(self.tuning))):
                for event in events:
                    self.take(event)
                if self.wanted:
                    self.look(lanes)
                yield
            self.outcome = "complete" if self.wanted else "stopped"
        except DivergedError as error:
            kept = f"the last finite state, of update {self.tuning.update}, is kept"
            self.message = f"{error}; {kept if self.tuning.update else 'nothing had been learned by then'}"
            self.outcome = "diverged"
        except gpu.NotLentError as error:
            self.message = str(error)
        except Exception:
            self.outcome = "failed"
            raise

    def while_wanted(self, events: Iterator[Any]) -> Iterator[Any]:
        """`events` up to the first one after `stop`."""
        for event in events:
            yield event
            if not self.wanted:
                return

    @contextmanager
    def finishing(self, lanes: Lanes, own: OwnModels) -> Iterator[None]:
        """Has the run finished at the end of the block, before anything else; but where the reader of a generator goes
        away, in a thread of its own: whoever closes a generator has no time, gradio does it on its event loop."""
        try:
            yield
        except GeneratorExit:
            threading.Thread(target=self.finish, args=(lanes, own), name="finish").start()
            raise
        except BaseException:
            self.finish(lanes, own)
            raise
        else:
            self.finish(lanes, own)

    def finish(self, lanes: Lanes, own: OwnModels) -> None:
        """Ends the run, however it came to an end: what was learned is kept, and listed among the visitor's models."""
        try:
            if self.tuning is not None:
                self.history.cut(self.tuning.update)
                lanes.do(self.park)
            self.hand_over(own)
        finally:
            self.tuning, self.phase = None, self.outcome
            return_freed_memory()

    def take(self, event: Any) -> None:
        if isinstance(event, PoolStep):
            self.drawn = event.done, event.total
        elif isinstance(event, TuningStep):
            self.phase = "tuning"
            self.history.add(event)

    def look(self, lanes: Lanes) -> None:
        """Samples from the fixed noise, before and after, if it is time for them."""
        began = time.monotonic()
        then, cost = self._preview
        if self.phase != "tuning" or began < then + max(PREVIEW_SECONDS, PREVIEW_SHARE * cost):
            return
        self.samples = lanes.do(lambda: self.tuning.preview(PREVIEW_SAMPLES)) or self.samples
        self.version += 1
        self._preview = time.monotonic(), time.monotonic() - began

    def park(self) -> None:
        """Keeps the run as files: the checkpoints that it has made so far, and its state, to go on from, which is
        larger: where that does not fit, the run ends with them."""
        tuning = self.tuning
        self.samples = tuning.preview(PREVIEW_SAMPLES) or self.samples
        self.version += 1
        if tuning.update:
            for which in ("last", "best") if tuning.best is not None else ("last",):
                tuning.export(self.folder / f"{which}.safetensors", which=which)
        if self.outcome == "stopped":
            try:
                tuning.save(self.state)
            except InputError:
                self.message = "there is no room here for what the run would go on from: its result is kept"

    def files(self) -> dict[str, Path]:
        """The checkpoints that there are, by state. "best" is left out where it is the last one."""
        found = {which: self.folder / f"{which}.safetensors" for which in ("last", "best")}
        found = {which: path for which, path in found.items() if path.exists()}
        if self.best is None or self.best.update == self.history.done:
            found.pop("best", None)
        return found

    @property
    def best(self) -> TuningStep | None:
        """The update whose state is the best by the figure that was chosen."""
        found = [step for step in self.history.held if step.update]
        return min(found, key=lambda step: getattr(step, self.config.best_by)) if found else None

    def hand_over(self, own: OwnModels) -> None:
        """Lists the checkpoints among the visitor's models, in place of those of an earlier stop."""
        for model in self.models.values():
            if any(model is known for known in own.mine()):
                own.remove(model.name)
        self.models = {}
        try:
            for which, path in self.files().items():
                name = self.name if which == "last" else f"{self.name[: MAX_NAME - 5]}-best"
                self.models[which] = own.add(path, name, self.history if which == "last" else None)
        except InputError as error:
            self.message = str(error)

    def discard(self) -> None:
        """Deletes the run's files; the models that were handed over stay."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_room(own: OwnModels) -> None:
    """Raises InputError if the result of a run could not be kept."""
    if len(own.mine()) > MAX_MODELS - 2:
        raise InputError(
            f"you have {len(own.mine())} models here and {MAX_MODELS} are the most: remove one before the next run"
        )
