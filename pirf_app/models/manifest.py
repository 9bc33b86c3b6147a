"""The manifest of a folder of checkpoints: what it says of every file, and how it is read."""

import json
import sys
from pathlib import Path
from types import UnionType
from typing import NotRequired, TypedDict, Unpack

from .checkpoint import MALFORMED, CheckpointInfo, Label, read_info, unreadable

FILE = "manifest.json"


class Entry(Label):
    """What a manifest says of a checkpoint file. `parent` is the SHA-256 of the file that a tuned one continues, `size`
    bytes. Models that others brought say where they are from (`source`), and a visitor's own, which goes by its name,
    by which method it was made (`kind`)."""

    name: str
    file: str
    sha256: str
    size: int
    parent: str | None
    figures: dict
    source: NotRequired[str]
    kind: NotRequired[str]


class Changes(TypedDict, total=False):
    """What an entry may say otherwise than its file."""

    name: str
    file: str
    method: str
    figures: dict
    source: str
    kind: str


KINDS: dict[str, type | UnionType] = {"name": str, "file": str, "sha256": str, "size": int, "pde": str}
KINDS |= {"resolution": int, "method": str, "parent": str | None, "figures": dict}  # of what each entry must have


def entry_of(info: CheckpointInfo, sha256: str, size: int, **changes: Unpack[Changes]) -> Entry:
    """The manifest entry of a checkpoint file: under its title, with what it says of itself, unless told otherwise, and
    of its figures those that are some."""
    title = info.title
    said: Entry = {
        "name": title,
        "file": f"{title}.safetensors",
        "sha256": sha256,
        "size": size,
        **info.label,
        "parent": info.parent,
        "figures": info.figures,
    }
    entry: Entry = {**said, **changes}
    return {**entry, "figures": {name: value for name, value in entry["figures"].items() if is_figure(value)}}


def entry_at(path: Path, sha256: str) -> Entry:
    """The manifest entry of a checkpoint file, under the name that it has. Raises CheckpointError."""
    return entry_of(read_info(path), sha256, path.stat().st_size, name=path.stem, file=path.name)


def is_figure(value: object) -> bool:
    """Whether a manifest may hold `value` as a figure: a finite number, or None."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def read_manifest(folder: Path) -> list[Entry]:
    """The entries of a folder's manifest; [] where there is none. Raises CheckpointError."""
    path = folder / FILE
    try:
        entries = json.loads(path.read_text())["models"]
        if not isinstance(entries, list):
            raise TypeError("models must be a list")
        for entry in entries:
            wrong = [key for key, kind in KINDS.items() if not isinstance(entry[key], kind)]
            if wrong or Path(entry["file"]).name != entry["file"]:
                raise TypeError(f"an entry has a wrong {(wrong or ['file'])[0]}")
        return entries
    except FileNotFoundError:
        return []
    except (OSError, *MALFORMED) as error:
        raise unreadable(path, error) from None
