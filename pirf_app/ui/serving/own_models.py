"""Models of one visitor's own.

Nobody else can see or name them. They are kept as files and read by the strict loader when they are used, so that one
that was made here and one that was uploaded are the same thing.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...common.checks import InputError, shown
from ...evaluation.verdicts import OWN
from ...models.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, read_info
from ...models.library import AnyLibrary
from ...models.manifest import Entry, entry_of
from .lanes import Lanes

MAX_MODELS, MAX_NAME = 12, 40
NAME = re.compile(r"[\w .+-]+")


class NoRoomError(InputError):
    """No model more can be kept."""


@dataclass(frozen=True)
class OwnModel:
    """A model of a visitor: `method` is what it is called among the methods of its PDE."""

    name: str
    path: Path
    sha256: str
    size: int
    info: CheckpointInfo
    history: object = field(default=None, repr=False)  # the curves of the run that made it, if it was made here
    source: str = "yours"  # or the repository and commit that it was fetched from

    @property
    def method(self) -> str:
        return OWN + self.name

    @property
    def entry(self) -> Entry:
        """The model as a manifest lists it, with its `source`, and as `kind` the method that made it."""
        return entry_of(
            self.info,
            self.sha256,
            self.size,
            name=self.name,
            file=self.path.name,
            method=self.method,
            source=self.source,
            kind=self.info.method,
            figures=self.info.figures or checked(self.info),
        )


class OwnModels(AnyLibrary):
    """The shared library, and over it the models of one visitor; these come last among the methods of their PDE."""

    def __init__(self, shared: AnyLibrary, folder: Path, room: Callable[[int], None], read: "Reader"):
        self.shared, self.own_folder, self._room, self._read = shared, folder, room, read
        self._models: dict[str, OwnModel] = {}

    def add(
        self, path: Path, name: str | None = None, history: object = None, source: str = OwnModel.source
    ) -> OwnModel:
        """Takes a checkpoint file in under `name` (else its file's, made fit), after the strict loader has read it.

        Raises InputError with a reason."""
        path = Path(path)
        info = read_info(path)  # its size is looked at before anything is read
        size = path.stat().st_size
        self._room(size)
        if len(self._models) >= MAX_MODELS:
            raise NoRoomError(f"{MAX_MODELS} models of your own are the most that is kept here: remove one first")
        name = self.free_name(check_name(name) if name else clean_name(path.stem))
        checkpoint = self.load_file(path)
        kept = self.own_folder / f"{name}.safetensors"
        shutil.copyfile(path, kept)
        self._models[name] = OwnModel(name, kept, checkpoint.sha256, size, info, history, source)
        return self._models[name]

    def free_name(self, name: str) -> str:
        """`name`, or where it is taken the first of "name-2", "name-3", ... that is not."""
        number, tried = 1, name
        while tried.lower() in {known.lower() for known in self._models}:
            number += 1
            tried = f"{name[: MAX_NAME - 4]}-{number}"
        return tried

    def mine(self, pde: str | None = None) -> list[OwnModel]:
        """The visitor's models, oldest first."""
        return [model for model in self._models.values() if pde in (None, model.info.pde)]

    def own(self, name: str) -> OwnModel:
        """The visitor's model of that name, with or without the prefix of a method. Raises InputError."""
        name = str(name).removeprefix(OWN)
        if not name:
            raise InputError("choose one of your models first")
        if name not in self._models:
            known = ", ".join(self._models) or "none yet"
            raise InputError(f"you have no model called {shown(name)}: yours are {known}")
        return self._models[name]

    def remove(self, name: str) -> None:
        """Deletes a model of the visitor. Raises InputError."""
        model = self.own(name)
        del self._models[model.name]
        model.path.unlink(missing_ok=True)

    def manifest(self) -> list[Entry]:
        """What the visitor can use: everybody's models, then their own, oldest first."""
        return self.shared.manifest() + [model.entry for model in self.mine()]

    def methods(self, pde: str, resolution: int | None = None) -> list[str]:
        fits = [m.method for m in self.mine(pde) if resolution in (None, m.info.resolution)]
        return self.shared.methods(pde, resolution) + fits

    def none_known(self) -> str:
        return self.shared.none_known()

    def load(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """A checkpoint by PDE and method; one of the visitor's own goes by its name in all that is said of it."""
        if not str(method).startswith(OWN):
            return self.shared.load(pde, method, resolution)
        model = self.own(method)
        if model.info.pde != pde:
            raise InputError(f"{model.name} is a model of {model.info.pde}, not of {pde}")
        checkpoint = self._read(model.path, model.sha256, self)
        return replace(checkpoint, info=replace(checkpoint.info, method=model.method))

    def load_file(self, path: Path, expected_sha256: str | None = None) -> Checkpoint:
        return load_checkpoint(path, self.find_parent, expected_sha256)

    def located(self, sha256: str) -> tuple[Entry, Path] | None:
        for model in self.mine():
            if model.sha256 == sha256:
                # Its method as the file has it: others read this.
                entry = entry_of(model.info, sha256, model.size, name=model.name, file=model.path.name)
                return entry, model.path
        return self.shared.located(sha256)

    def find_parent(self, sha256: str) -> Checkpoint:
        for model in self.mine():
            if model.sha256 == sha256:
                return self._read(model.path, sha256, self)
        return self.shared.find_parent(sha256)


Reader = Callable[[Path, str, OwnModels], Checkpoint]  # a file with its hash, for whoever has the models


def checked(info: CheckpointInfo) -> dict:
    """What a run measured on held-out noise of the state that became the checkpoint; {} where it does not say."""
    checks = info.recipe.get("checks")
    last = checks.get(info.recipe.get("state")) if isinstance(checks, dict) else None
    if not isinstance(last, dict):
        return {}
    return {k: last[k] for k in ("residual_rms", "solve_error_median") if isinstance(last.get(k), float)}


def take_upload(path: str, models: OwnModels, lanes: Lanes) -> OwnModel:
    """An uploaded file as one of the visitor's models, checked in a turn of the lane. Raises InputError.

    The upload stays where it is: Gradio names it by its content, so that it may be another visitor's as well, and has
    it deleted after a while (`delete_cache`)."""
    return lanes.do(lambda: models.add(Path(path)))


def check_name(name: str) -> str:
    """A name for a model, fit for a file: `name` without blanks around it. Raises InputError."""
    name = str(name).strip()
    if not NAME.fullmatch(name) or len(name) > MAX_NAME or name.startswith("."):
        raise InputError(
            f"a name has 1 to {MAX_NAME} letters, digits, blanks or any of . _ + - and does not start with a dot, "
            f"unlike {shown(name, 60)}"
        )
    return name


def clean_name(name: str) -> str:
    """What `name` is changed to where nobody is there to choose another one that `check_name` takes."""
    return re.sub(r"[^\w .+-]+", "-", name)[:MAX_NAME].strip(" .-") or "model"
