"""The state of an unfinished training run as one safetensors file, so that resuming never unpickles anything."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..pdes.base import InputError, shown
from ..tensor_file import write_tensors


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


def run_with_saves(run, state: Path, interval: float) -> Iterator:
    """The events of `run.run()`; its state is saved every `interval` seconds and at the end, by one process of a team.

    What was saved the caller has dealt with: a log that it writes is never behind the state."""
    check_interval(interval)
    saved = time.monotonic()
    try:
        for event in run.run():
            yield event
            if run.workers.main and time.monotonic() - saved >= interval:
                run.save(state)
                saved = time.monotonic()
    finally:
        if run.workers.main:
            run.save(state)
