"""What the commands share: checks of their options, progress on standard error."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer

from ..common.checks import InputError, shown
from ..models.checkpoint import Checkpoint

MAX_SAMPLES, MAX_NUMBERS = 100_000, 2**28
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu or cuda")]
Parents = Annotated[
    list[Path] | None,
    typer.Option("--parent", help="file of the checkpoint that a tuned one continues, where it is not beside it"),
]

Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", help="of the equation or its data, NAME=VALUE: reynolds=1000, permeability=log-normal"),
]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check_count(n: int) -> int:
    if not 1 <= n <= MAX_SAMPLES:
        raise InputError(f"n must be a whole number from 1 to {MAX_SAMPLES}, not {n}")
    return n


def check_memory(n: int, resolution: int) -> None:
    """Raises InputError for more data than is made at once."""
    if n * resolution**2 > MAX_NUMBERS:
        raise InputError(f"{n} fields at {resolution}x{resolution} are too many at once: ask for fewer")


def check_folder(path: Path) -> Path:
    """`path` itself if a file can be put there. Raises InputError before any work is done."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file to write")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist, so {path.name} cannot be written")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        raise InputError(f"{path} cannot be written: nothing can be put in the folder {path.parent} ({why})") from None
    return path


def state_beside(out: Path) -> Path:
    """The file beside the checkpoint `out` that the state of its run is kept in. Raises InputError."""
    if check_folder(out).suffix != ".safetensors":
        raise InputError(f"the name of the checkpoint to write must end in .safetensors, not {out.name!r}")
    return out.with_suffix(".state")


def split(option: str, values: str, all_values: list[str]) -> list[str]:
    """The parts of a list such as "darcy,poisson"; "all" stands for `all_values`. Raises InputError if it is empty."""
    found = all_values if values == "all" else [v.strip() for v in values.split(",") if v.strip()]
    if not found:
        raise InputError(f"--{option} {values!r} chooses nothing")
    return found


def whole_numbers(name: str, values: str) -> list[int]:
    try:
        return [int(v) for v in values.split(",")]
    except ValueError:
        raise InputError(f"{name} must be whole numbers separated by commas, not {values!r}") from None


def numbers(option: str, values: str) -> list[float]:
    try:
        return [float(value) for value in values.split(",")]
    except ValueError:
        raise InputError(f"--{option} must be numbers separated by commas, one a channel, not {values!r}") from None


def named_values(options: list[str] | None) -> dict[str, float | str]:
    """The values of options such as reynolds=1000 or permeability=log-normal, by name. Raises InputError."""
    found: dict[str, float | str] = {}
    for text in options or []:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign and value):
            raise InputError(f"--parameter must be NAME=VALUE, such as reynolds=1000, not {shown(text)}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found


def with_solver(checkpoint: Checkpoint, solver: str | None) -> Checkpoint:
    """`checkpoint`, recommending another solver (None: its own). Raises InputError."""
    if solver is None:
        return checkpoint
    schedule = replace(checkpoint.info.schedule, solver=solver)
    return replace(checkpoint, info=replace(checkpoint.info, sampler=schedule.to_dict()))
