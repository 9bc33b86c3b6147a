"""Libraries of checkpoints: what is asked of any of them, and the one that is a folder; where the parents of tuned ones
are found."""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from ..common.checks import InputError
from ..common.files import write_json
from ..common.paths import CHECKPOINTS
from ..diffusion.guidance import GUIDANCE
from ..pdes import get_pde
from .checkpoint import (
    ELSEWHERE,
    INHERITED,
    Checkpoint,
    CheckpointError,
    CheckpointInfo,
    file_sha256,
    load_checkpoint,
    read_info,
)
from .manifest import FILE, Entry, entry_at, entry_of, read_manifest

USUAL = ("base", "pirf")  # what is compared unless told otherwise
BUNDLED = CHECKPOINTS
LOOKED_AT = 200  # files of a folder among which a parent is looked for


def rank(method: str) -> tuple:
    """Orders methods: the usual ones, the others by name, then those that only guide the baseline, and last what has
    come from elsewhere, so that it changes nothing before it."""
    return "@" in method, method not in USUAL, method in GUIDANCE, method


def beside(path: Path, sha256: str) -> Path | None:
    """The base checkpoint with that hash in the folder of the tuned one `path`, if it is there. Only files that say of
    themselves what its parent must are hashed, and only so many files are looked at."""
    tuned = read_info(path)
    for found in sorted(Path(path).absolute().parent.glob("*.safetensors"))[:LOOKED_AT]:
        with suppress(CheckpointError, OSError):
            if not found.is_file():  # whoever opened a pipe would wait
                continue
            info = read_info(found)
            fits = info.parent is None and all(getattr(info, name) == getattr(tuned, name) for name in INHERITED)
            if fits and file_sha256(found) == sha256:
                return found
    return None


class AnyLibrary(Protocol):
    """What is asked of a library, wherever its models are. `find` and `parent_of` follow from the other answers for
    those that derive from this class."""

    @abstractmethod
    def manifest(self) -> list[Entry]:
        """An entry for every model. Raises CheckpointError where that cannot be read."""

    @abstractmethod
    def methods(self, pde: str, resolution: int | None = None) -> list[str]:
        """Methods that `load` knows for a PDE, in the order in which they are shown."""

    @abstractmethod
    def load(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """A checkpoint by PDE and method, or the baseline as the method guides it. Raises InputError or
        CheckpointError."""

    @abstractmethod
    def load_file(self, path: Path, expected_sha256: str | None = None) -> Checkpoint:
        """A checkpoint file from anywhere; its parent, if it has one, is where `parent_of` says. Raises
        CheckpointError."""

    @abstractmethod
    def located(self, sha256: str) -> tuple[Entry, Path] | None:
        """The manifest entry of the file with that hash, and where the file is; None if it is not here."""

    @abstractmethod
    def find_parent(self, sha256: str) -> Checkpoint:
        """The checkpoint whose file has that hash. Raises CheckpointError if it is not here."""

    @abstractmethod
    def none_known(self) -> str:
        """What to say in place of the methods where there are none."""

    def parent_of(self, path: Path, sha256: str) -> tuple[Entry, Path] | None:
        """The entry and the place of the file with that hash, which the tuned checkpoint `path` continues; None if it
        is not here."""
        return self.located(sha256)

    def find(self, pde: str, method: str, resolution: int | None = None) -> Entry:
        """The manifest entry for a PDE and method. Raises InputError, naming the methods there are."""
        resolution = resolution or get_pde(pde).default_resolution
        for entry in self.manifest():
            if (entry["pde"], entry["method"], entry["resolution"]) == (pde, method, resolution):
                return entry
        known = ", ".join(self.methods(pde, resolution)) or self.none_known()
        raise InputError(
            f"there is no {method!r} checkpoint for {pde} at {resolution}x{resolution}: available are {known}"
        )


def methods_in(entries: Iterable[Entry], pde: str, resolution: int | None = None) -> list[str]:
    """Methods that a manifest has a checkpoint for, and those that guide the baseline where there is one, by `rank`."""
    found = {e["method"] for e in entries if e["pde"] == pde and resolution in (None, e["resolution"])}
    return sorted(found | (GUIDANCE.keys() if "base" in found else set()), key=rank)


def load_from(
    listed: Callable[[str, str, int | None], Checkpoint], pde: str, method: str, resolution: int | None
) -> Checkpoint:
    """What `listed` gives for a method of the manifest, or the baseline as the method guides it."""
    get_pde(pde)
    if method in GUIDANCE:
        return guided(listed(pde, "base", resolution), method)
    return listed(pde, method, resolution)


class Library(AnyLibrary):
    """The checkpoints in a folder, by its `manifest.json`: unless one is given, in that which PIRF_CHECKPOINTS names,
    or in the bundled one. Loaded ones are kept in memory. Parents that are not in it are looked for in `fallback`."""

    def __init__(self, folder: Path | None = None, fallback: AnyLibrary | None = None):
        self.folder = Path(folder or os.environ.get("PIRF_CHECKPOINTS") or BUNDLED)
        self.fallback = fallback or (None if self.folder == BUNDLED else Library(BUNDLED))
        self._load = lru_cache(maxsize=32)(self.load_file)
        self._named: dict[str, Path] = {}

    def with_parents(self, files: Iterable[Path] | None) -> "Library":
        """This library, which finds the parents of tuned checkpoints among `files` as well. Raises CheckpointError for
        a file that cannot be one."""
        for path in files or ():
            if read_info(path).parent is not None:
                raise CheckpointError(f"{Path(path).name} is a tuned checkpoint, and a parent must be a base one")
            self._named[file_sha256(path)] = Path(path).absolute()
        return self

    def manifest(self) -> list[Entry]:
        return read_manifest(self.folder)

    def write_manifest(
        self,
        measured: Callable[[CheckpointInfo], dict] | None = None,
        skip: Callable[[CheckpointError], None] | None = None,
    ) -> list[Entry]:
        """Lists every checkpoint of the folder afresh, with its `measured` figures (else its own). A file that is none
        is left out, and `skip` told; without it, the error is raised."""
        entries = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                info = read_info(path)
            except CheckpointError as error:
                if skip is None:
                    raise
                skip(error)
                continue
            figures, size = measured(info) if measured else info.figures, path.stat().st_size
            entries.append(entry_of(info, file_sha256(path), size, name=path.stem, file=path.name, figures=figures))
        write_json(self.folder / FILE, {"models": entries})
        return entries

    def methods(self, pde: str, resolution: int | None = None) -> list[str]:
        return methods_in(self.manifest(), pde, resolution)

    def none_known(self) -> str:
        if (self.folder / FILE).exists() or not next(self.folder.glob("*.safetensors"), None):
            return "none yet"
        return f"none, for {self.folder.name} has no manifest: `models manifest --folder DIR` writes one"

    def load(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        return load_from(self.listed, pde, method, resolution)

    def listed(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """A checkpoint of the manifest by PDE and method. Raises InputError or CheckpointError."""
        entry = self.find(pde, method, resolution)
        return self._load(self.folder / entry["file"], entry["sha256"])

    def load_file(self, path: Path, expected_sha256: str | None = None) -> Checkpoint:
        def find_parent(sha256: str) -> Checkpoint:
            if self.located(sha256) is not None:
                return self.find_parent(sha256)
            if found := beside(path, sha256):
                return self._load(found, sha256)
            others = ", ".join(other.name for other in self._named.values())
            raise CheckpointError(
                f"the parent checkpoint {sha256[:12]} of {Path(path).name} is not here: put its file beside it, or "
                f"name it with --parent FILE{others and f' ({others} has another SHA-256)'}"
            )

        return load_checkpoint(path, find_parent, expected_sha256)

    def parent_of(self, path: Path, sha256: str) -> tuple[Entry, Path] | None:
        """In this library, named by `with_parents`, bundled, or beside `path`."""
        if known := self.located(sha256):
            return known
        found = beside(path, sha256)
        return (entry_at(found, sha256), found) if found else None

    def located(self, sha256: str) -> tuple[Entry, Path] | None:
        return self._here(sha256) or (self.fallback.located(sha256) if self.fallback else None)

    def _here(self, sha256: str) -> tuple[Entry, Path] | None:
        for entry in self.manifest():
            if entry["sha256"] == sha256:
                return entry, self.folder / entry["file"]
        path = self._named.get(sha256)
        return (entry_at(path, sha256), path) if path else None

    def find_parent(self, sha256: str) -> Checkpoint:
        if found := self._here(sha256):
            return self._load(found[1], sha256)
        if self.fallback:
            return self.fallback.find_parent(sha256)
        raise CheckpointError(f"the parent checkpoint {sha256[:12]} of this tuned checkpoint is not here")

    def resolve(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """`method` may be a method's name or the path of a checkpoint file for that PDE."""
        get_pde(pde)
        if Path(method).suffix.lower() not in (".safetensors", *ELSEWHERE) and "/" not in method:
            return self.load(pde, method, resolution)
        path = Path(method).absolute()
        if (found := read_info(path).pde) != pde:
            raise CheckpointError(f"{path.name} is a checkpoint for {found}, not for {pde}")
        return self._load(path, file_sha256(path))


def guided(base: Checkpoint, method: str) -> Checkpoint:
    """The untuned checkpoint `base` as `method` (a name in `GUIDANCE`) samples it. It shares the weights."""
    denoiser = GUIDANCE[method](base.base_denoiser, base.problem).eval()
    return replace(base, denoiser=denoiser, info=replace(base.info, method=method))


GPU_RESOLUTION = 128


def grids(library: AnyLibrary, pde: str) -> list[int]:
    """Resolutions at which there is a checkpoint for `pde`, coarsest first."""
    return sorted({entry["resolution"] for entry in library.manifest() if entry["pde"] == pde})


def grid(library: AnyLibrary, pde: str, asked: int | None = None) -> int:
    """The resolution to compare on: the one asked for, else the fine one where a GPU samples and there is a checkpoint,
    else the benchmark's default, which a CPU is fast enough for, or the coarsest where there is none of that. Raises
    InputError, naming those there are."""
    known = grids(library, pde)
    if asked is None:
        fine = torch.cuda.is_available() and GPU_RESOLUTION in known
        usual = GPU_RESOLUTION if fine else get_pde(pde).default_resolution
        return usual if usual in known or not known else known[0]
    if asked not in known:
        names = ", ".join(f"{n}x{n}" for n in known) or "none yet"
        raise InputError(f"there is no checkpoint for {pde} at {asked}x{asked}: available are {names}")
    return asked
