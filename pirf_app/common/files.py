"""Files that are written whole or not at all."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from .checks import InputError, shown

POINTER = b"version https://git-lfs.github.com/spec/"  # what a checkout without Git LFS has in a file's place


def is_pointer(path: Path) -> bool:
    """Whether `path` is not the file itself but a Git LFS pointer to it. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(len(POINTER)) == POINTER


def unwritable(path: Path | str, error: Exception) -> InputError:
    """Why a file cannot be written: what the system said, also by way of safetensors, which passes on its words."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"os error (\d+)", str(error))):
        number = int(found[1])
    return InputError(f"{path} cannot be written ({os.strerror(number) if number else shown(str(error), 120)})")


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Gives the block a path to write to. At its end what it wrote there takes the place of `path`, with the mode that
    the umask gives; if it fails, `path` is as it was and nothing else is left. Raises InputError, which names `path`,
    where it cannot be written.

    A link stays one, to the new file; what is no regular file (a pipe, /dev/null) is written to itself."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()
        temporary = target.with_name(f".{target.name[:40]}.{os.getpid()}.tmp")  # short: the name itself may be as long
        try:
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # safetensors puts a file of its own there, which nobody else may read
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from None


def write_text(path: Path | str, text: str) -> None:
    """Raises InputError, as all of these do."""
    with replacing(path) as place:
        place.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: object) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_arrays(path: Path | str, **arrays) -> None:
    """Writes an .npz file, whatever its name ends in."""
    with replacing(path) as place, open(place, "wb") as file:  # savez would add its own ending to a name
        np.savez_compressed(file, **arrays)
