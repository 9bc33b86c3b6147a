"""A folder of checkpoints and its manifest; the bundled one."""

import json
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from .checkpoints import (
    ELSEWHERE,
    MALFORMED,
    Checkpoint,
    CheckpointError,
    CheckpointInfo,
    file_sha256,
    load_checkpoint,
    read_info,
    unreadable,
)
from .methods.guidance import GUIDANCE, guided
from .pdes import InputError, get_pde

ENTRY = {"name": str, "file": str, "sha256": str, "size": int, "pde": str, "resolution": int, "method": str}
ENTRY |= {"parent": str | None, "figures": dict}  # of the manifest
USUAL = ("base", "pirf")  # what is compared unless told otherwise
BUNDLED = Path(__file__).resolve().parent.parent / "checkpoints"


def rank(method: str) -> tuple:
    """Orders methods: the usual ones, the others by name, then those that only guide the baseline, and last what has
    come from elsewhere, so that it changes nothing before it."""
    return "@" in method, method not in USUAL, method in GUIDANCE, method


def entry_of(info: CheckpointInfo, sha256: str, size: int, **changes) -> dict:
    """The manifest entry of a checkpoint file: under its title, with what it says of itself, unless told otherwise, and
    of its figures those that are some."""
    entry = {"name": info.title, "file": f"{info.title}.safetensors", "sha256": sha256, "size": size}
    entry |= info.label | {"parent": info.parent, "figures": info.figures}
    entry |= changes
    return entry | {"figures": {name: value for name, value in entry["figures"].items() if is_figure(value)}}


def is_figure(value: object) -> bool:
    """Whether a manifest may hold `value` as a figure: a finite number, or None."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


class Library:
    """The checkpoints in a folder, by its `manifest.json`. Loaded ones are kept in memory."""

    def __init__(self, folder: Path = BUNDLED):
        self.folder = Path(folder)
        self._load = lru_cache(maxsize=32)(self._read)

    def manifest(self) -> list[dict]:
        """Entries `{name, file, sha256, size, pde, resolution, method, parent, figures}`; [] where there is none."""
        path = self.folder / "manifest.json"
        try:
            entries = json.loads(path.read_text())["models"]
            if not isinstance(entries, list):
                raise TypeError("models must be a list")
            for entry in entries:
                wrong = [key for key, kind in ENTRY.items() if not isinstance(entry[key], kind)]
                if wrong or Path(entry["file"]).name != entry["file"]:
                    raise TypeError(f"an entry has a wrong {(wrong or ['file'])[0]}")
            return entries
        except FileNotFoundError:
            return []
        except (OSError, *MALFORMED) as error:
            raise unreadable(path, error) from None

    def write_manifest(self, measured: Callable[[CheckpointInfo], dict] | None = None) -> list[dict]:
        """Lists every readable checkpoint of the folder afresh, with its `measured` figures (else its own)."""
        entries = []
        for path in sorted(self.folder.glob("*.safetensors")):
            info = read_info(path)
            own = {"name": path.stem, "file": path.name, "figures": measured(info) if measured else info.figures}
            entries.append(entry_of(info, file_sha256(path), path.stat().st_size, **own))
        (self.folder / "manifest.json").write_text(json.dumps({"models": entries}, indent=1) + "\n")
        return entries

    def methods(self, pde: str, resolution: int | None = None) -> list[str]:
        """Methods there is a checkpoint for, and those that guide the baseline where there is one, by `rank`."""
        found = {e["method"] for e in self.manifest() if e["pde"] == pde and resolution in (None, e["resolution"])}
        return sorted(found | (GUIDANCE.keys() if "base" in found else set()), key=rank)

    def find(self, pde: str, method: str, resolution: int | None = None) -> dict:
        """The manifest entry for a PDE and method. Raises InputError, naming the methods there are."""
        resolution = resolution or get_pde(pde).default_resolution
        for entry in self.manifest():
            if (entry["pde"], entry["method"], entry["resolution"]) == (pde, method, resolution):
                return entry
        known = ", ".join(self.methods(pde, resolution)) or "none yet"
        raise InputError(
            f"there is no {method!r} checkpoint for {pde} at {resolution}x{resolution}: available are {known}"
        )

    def load(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """A checkpoint by PDE and method: one of the manifest, or the baseline as the method guides it. Raises
        InputError or CheckpointError."""
        get_pde(pde)
        if method in GUIDANCE:
            return guided(self.listed(pde, "base", resolution), method)
        return self.listed(pde, method, resolution)

    def listed(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """A checkpoint of the manifest by PDE and method. Raises InputError or CheckpointError."""
        entry = self.find(pde, method, resolution)
        return self._load(entry["file"], entry["sha256"])

    def _read(self, file: str, sha256: str) -> Checkpoint:
        return load_checkpoint(self.folder / file, self.find_parent, sha256)

    def load_file(self, path: Path) -> Checkpoint:
        """A checkpoint file from anywhere; its parent, if it has one, must be in this library, or beside the file and
        in the manifest there, as in a repository that was fetched."""

        def find_parent(sha256: str) -> Checkpoint:
            beside = Library(Path(path).parent)
            elsewhere = self.located(sha256) is None and beside.located(sha256) is not None
            return (beside if elsewhere else self).find_parent(sha256)

        return load_checkpoint(path, find_parent)

    def located(self, sha256: str) -> tuple[dict, Path] | None:
        """The manifest entry of the file with that hash, and where the file is; None if it is not here."""
        found = next((entry for entry in self.manifest() if entry["sha256"] == sha256), None)
        return found and (found, self.folder / found["file"])

    def find_parent(self, sha256: str) -> Checkpoint:
        for entry in self.manifest():
            if entry["sha256"] == sha256:
                return self._load(entry["file"], sha256)
        raise CheckpointError(f"the parent checkpoint {sha256[:12]} of this tuned checkpoint is not here")

    def resolve(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """`method` may be a method's name or the path of a checkpoint file for that PDE."""
        get_pde(pde)
        if Path(method).suffix.lower() not in (".safetensors", *ELSEWHERE) and "/" not in method:
            return self.load(pde, method, resolution)
        checkpoint = self.load_file(Path(method))
        if checkpoint.info.pde != pde:
            raise CheckpointError(f"{Path(method).name} is a checkpoint for {checkpoint.info.pde}, not for {pde}")
        return checkpoint
