"""The state of an unfinished training run as one safetensors file, so that resuming never unpickles anything; and when
it is saved."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..common.checks import InputError, shown
from ..common.parallel import Team
from ..common.tensor_file import write_tensors

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def save_run(path: Path, tensors: dict[str, Tensor], optimiser: torch.optim.Optimizer, meta: dict) -> None:
    """Writes named tensors, the optimiser's per-parameter state and `meta` (JSON), replacing the file atomically."""
    packed = dict(tensors)
    for index, state in optimiser.state_dict()["state"].items():
        packed |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    write_tensors(path, packed, {"run": json.dumps(meta)})


def load_run(path: Path) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]], dict]:
    """What `save_run` wrote: tensors, optimiser state by parameter, meta. Raises InputError if the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["run"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the state of a run ({shown(str(error), 120)})") from None
    optimiser: dict[int, dict[str, Tensor]] = {}
    for key in [key for key in tensors if key.startswith("optimiser.")]:
        _, index, name = key.split(".")
        optimiser.setdefault(int(index), {})[name] = tensors.pop(key)
    return tensors, optimiser, meta


def restore(optimiser: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    """Gives an optimiser the state by parameter that `load_run` returned."""
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


@contextmanager
def of_this_version(path: Path) -> Iterator[None]:
    """Raises InputError in place of what a file of other contents leads to."""
    try:
        yield
    except (KeyError, TypeError, RuntimeError):
        raise InputError(f"{path} is a run of another version of this app, so it cannot be continued") from None


def check_interval(seconds: float) -> None:
    if not seconds > 0:
        raise InputError(f"the seconds between saves must be above 0, not {seconds}")


class StoppedError(Exception):
    """A signal has asked this process to end; the message says what is kept of its work."""

    def __init__(self, number: int, message: str = "stopped"):
        super().__init__(message)
        self.number = number


class Resumable(Protocol):
    """A run as `Saves` sees it."""

    workers: Team

    def run(self) -> Iterator[Any]: ...

    def save(self, path: Path) -> None: ...


class Saves:
    """Keeps the state of a training run in the file `state`: every `interval` seconds while `events` are read, and at
    the end of a `with` block around that; by one process of a team.

    What the block writes at its end, the result, is there before the last state is, which is far larger and may not
    fit. A save that fails is told to `tell` and the run goes on, with the state of before; where it is the last one, a
    good block ends in InputError. SIGINT and SIGTERM end the run after the event at work, so that the state is that of
    whole updates, and at once when they come again: the block ends in StoppedError."""

    def __init__(self, run: Resumable, state: Path, interval: float, tell: Callable[[str], None]):
        check_interval(interval)
        self.run, self.state, self.interval, self.tell = run, state, interval, tell
        self.begun = self.failing = False
        self.signal: int | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "Saves":
        if threading.current_thread() is threading.main_thread():  # no other one may ask for signals
            wanted = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self.handlers = {number: signal.signal(number, self._stop) for number in wanted}
        return self

    def _stop(self, number: int, frame: object) -> None:
        again, self.signal = self.signal is not None, number
        if again or not self.begun:  # before the first event there is nothing to lose, and it may be a while
            raise StoppedError(number)

    def events(self) -> Iterator:
        """The events of `run.run()`. What was saved the caller has dealt with: a log that it writes is never behind the
        state."""
        saved = time.monotonic()
        for event in self.run.run():
            self.begun = True
            yield event
            if self.signal is not None:
                raise StoppedError(self.signal)
            if time.monotonic() - saved >= self.interval:
                failure = self._save()
                if failure and not self.failing:  # once for several in a row
                    self.tell(f"{failure}; the run goes on, and tries again")
                self.failing, saved = failure is not None, time.monotonic()

    def _save(self) -> InputError | None:
        """Why the state could not be written; None if it was, or another process does it."""
        try:
            if self.run.workers.main:
                self.run.save(self.state)
        except InputError as error:
            return error
        return None

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.begun = True  # a first signal does not break off the save
        try:
            failure = self._save()
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler or signal.SIG_DFL)
        if kind not in (None, GeneratorExit) and self.signal is not None:
            kept = f"{self.state} keeps the run, which goes on with --resume"
            raise StoppedError(self.signal, f"stopped: {failure or kept}") from None
        if failure and kind is None:
            raise InputError(f"{failure}; the result was written, but --resume cannot go on from where the run ended")
        if failure:
            self.tell(str(failure))
