"""The checkpoint format: one safetensors file, strictly read.

A base file holds a whole denoiser. A tuned file holds only the tensors that tuning changed, and names its parent by
SHA-256; it is read on top of that parent. Never a pickle.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..common.checks import MAX_RESOLUTION, InputError, check_number, check_whole, shown
from ..common.files import POINTER
from ..common.tensor_file import write_tensors
from ..common.text import megabytes
from ..diffusion.denoiser import Denoiser, check_fits
from ..diffusion.guidance import GuidedDenoiser
from ..diffusion.network import NetworkConfig
from ..diffusion.prior import PriorConfig
from ..diffusion.sampler import Schedule
from ..diffusion.two_stage import TunedDenoiser
from ..pdes import PDE, get_pde
from ..pdes.units import in_units

FORMAT_VERSION = 2
MAX_BYTES = 256 * 10**6  # a published network has 62 million parameters: 247 MB in single precision
MAX_HEADER = 2**20  # bytes of names, shapes and metadata: as Python objects they take many times that
ELSEWHERE = (".pkl", ".pt", ".pth")  # files of other code bases, which are imported first
DTYPES = {"F16", "BF16", "F32"}
KEY = "pirf"  # the only metadata key: safetensors writes several in no fixed order, and the hash would vary
HARMLESS = {"format"}  # keys that other tools add when they save a file again; this one names their array library
INHERITED = ("pde", "network", "prior", "normalisation", "parameters")  # what a tuned checkpoint has from its parent
AnyDenoiser = Denoiser | TunedDenoiser | GuidedDenoiser
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class CheckpointError(InputError):
    """A file that cannot be used as a checkpoint; the message says why."""


class PointerError(CheckpointError):
    """A file that is not there yet: Git LFS has left a pointer in its place."""

    def __init__(self, *names: str):
        self.names = names
        many = f" and {len(names) - 1} more are Git LFS pointers" if len(names) > 1 else " is a Git LFS pointer"
        super().__init__(f"{names[0]}{many}, not the content itself: run `git lfs pull`")


def sentences(errors: list[InputError]) -> list[str]:
    """What `errors` say, in their order; of all pointers together one sentence, the first."""
    names = [name for error in errors if isinstance(error, PointerError) for name in error.names]
    others = [str(error) for error in errors if not isinstance(error, PointerError)]
    return ([str(PointerError(*names))] if names else []) + others


class Label(TypedDict):
    """Which model: equation, grid and method, and the numbers in its equation where they are not the default ones."""

    pde: str
    resolution: int
    method: str
    parameters: NotRequired[dict[str, float]]


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself. `method` is "base" for untuned ones; `parent` the SHA-256 of the file that a
    tuned one continues; `handover` the noise level from which the tuned weights act; `figures` as measured;
    `parameters` the numbers in its equation that are not the default ones on its grid."""

    pde: str
    resolution: int
    method: str
    network: dict
    normalisation: dict
    sampler: dict
    prior: dict = field(default_factory=lambda: PriorConfig().to_dict())
    parent: str | None = None
    handover: float | None = None
    recipe: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def schedule(self) -> Schedule:
        return Schedule(**self.sampler)

    @property
    def title(self) -> str:
        return f"{self.pde}-{self.resolution}-{self.method}"

    @property
    def benchmark(self) -> PDE:
        """The benchmark with this checkpoint's parameters, in this app's own units: to measure its fields, take this
        one."""
        return get_pde(self.pde, self.parameters)

    @property
    def label(self) -> Label:
        """What a row of figures says of the checkpoint that they are of."""
        named: Label = {"pde": self.pde, "resolution": self.resolution, "method": self.method}
        return {**named, "parameters": self.parameters} if self.parameters else named

    def to_dict(self) -> dict:
        """As a file keeps it: without parameters where there are none, so that older files are the same when they are
        saved again."""
        return {name: value for name, value in asdict(self).items() if value or name != "parameters"}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, ready to sample: `denoiser(x, sigma)`, its info, and the SHA-256 of its file."""

    denoiser: AnyDenoiser
    info: CheckpointInfo
    sha256: str

    @property
    def base_denoiser(self) -> Denoiser:
        """The untuned model: the parent's of a tuned one, and what a guided one guides."""
        return self.denoiser if isinstance(self.denoiser, Denoiser) else self.denoiser.base

    @property
    def problem(self) -> PDE:
        """The benchmark in the units that the model was trained in; to sample or tune it, take this one."""
        return in_units(self.info.benchmark, self.info.normalisation)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(path: Path, model: AnyDenoiser, info: CheckpointInfo, full: bool = False) -> str:
    """Writes `model` (a Denoiser, or a TunedDenoiser of which only the changed tensors are kept) and returns the
    file's SHA-256. Network weights and prior directions are stored in half precision (unless `full`), the rest in
    float32. Raises InputError if it cannot be written."""
    if isinstance(model, GuidedDenoiser):
        raise InputError(f"{info.method} is a way to sample the baseline and has no weights of its own: save base")
    tensors = model.state_dict() if isinstance(model, Denoiser) else changed_tensors(model)
    half = lambda key: not full and (key.startswith("network.") or key == "prior.directions")  # noqa: E731
    packed = {k: v.detach().to(torch.float16 if half(k) else torch.float32) for k, v in tensors.items()}
    write_tensors(path, packed, {KEY: json.dumps(info.to_dict(), sort_keys=True)})
    return file_sha256(path)


def changed_tensors(model: TunedDenoiser) -> dict[str, Tensor]:
    base = model.base.state_dict()
    return {k: v for k, v in model.expert.state_dict().items() if not torch.equal(v, base[k])}


def unreadable(what: object, error: Exception) -> CheckpointError:
    return CheckpointError(f"{what} cannot be read ({type(error).__name__}: {shown(str(error), 120)})")


def read_info(path: Path) -> CheckpointInfo:
    """The metadata of a checkpoint file, checked. Raises CheckpointError."""
    name, head = Path(path).name or str(path), b""
    metadata: dict[str, str] = {}
    if Path(path).suffix.lower() in ELSEWHERE:
        how = "`python -m pirf_app models import-edm` makes one of a network that was trained elsewhere"
        raise CheckpointError(f"{name} is no checkpoint of this app: {how}")
    try:
        size = Path(path).stat().st_size
        if size <= MAX_BYTES:
            with open(path, "rb") as file:
                head = file.read(len(POINTER))
        header = int.from_bytes(head[:8], "little")
        described = MAX_HEADER < header <= size  # one that is longer than its file is none: safetensors says so
        if size <= MAX_BYTES and not described and head != POINTER:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint file {name}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{name} is not a complete safetensors file ({shown(str(error), 120)})") from None
    except ValueError as error:  # a path that no file can have
        raise unreadable(shown(str(path)), error) from None
    if head == POINTER:
        raise PointerError(name)
    if size > MAX_BYTES:
        raise CheckpointError(f"{name} is {megabytes(size)}; a checkpoint has at most {megabytes(MAX_BYTES)}")
    if described:
        most = megabytes(MAX_HEADER)
        raise CheckpointError(f"{name} has {megabytes(header)} of metadata; a checkpoint has at most {most}")
    if KEY not in metadata:
        raise CheckpointError(f"{name} is not a checkpoint of this app: it has no '{KEY}' in its metadata")
    if foreign := sorted(set(metadata) - {KEY} - HARMLESS):
        raise CheckpointError(
            f"{name} has metadata that is not of this app, {shown(foreign[0])}: a checkpoint has '{KEY}', and besides "
            f"it at most '{min(HARMLESS)}', which other tools add"
        )
    try:
        values = json.loads(metadata[KEY])
        version, unknown = values["format_version"], set(values) - {f.name for f in fields(CheckpointInfo)}
        if type(version) is not int or version != FORMAT_VERSION:
            raise InputError(f"the format version is {shown(version)}, and this app reads {FORMAT_VERSION}")
        if unknown:
            raise InputError(f"unknown metadata {shown(sorted(unknown), 120)}")
        info = CheckpointInfo(**values)
        _check_info(info)
    except InputError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except MALFORMED as error:
        raise unreadable(f"the metadata of {name}", error) from None
    return info


def _check_info(info: CheckpointInfo) -> None:
    pde = info.benchmark
    network = NetworkConfig.from_dict(info.network).check()
    check_whole("resolution", info.resolution, 8, MAX_RESOLUTION)
    if pde.differing(info.resolution) != info.parameters:
        default = pde.in_words(pde.default_parameters(info.resolution))
        raise InputError(f"its parameters name the default, which is {default} at {info.resolution}x{info.resolution}")
    prior = PriorConfig.from_dict(info.prior).check(len(pde.channels), network.resolution)
    check_fits(pde, network, prior)
    if info.resolution != network.resolution or network.to_dict() != info.network:
        raise InputError(f"the network does not fit {info.pde} at a resolution of {info.resolution}")
    if in_units(pde, info.normalisation) is not pde and network.hints:
        raise InputError("a network that is given hints must have this app's own normalisation")
    if not isinstance(info.method, str) or not info.method.strip():
        raise InputError(f"the method must be a name, not {shown(info.method)}")
    if not isinstance(info.recipe, dict) or not isinstance(info.figures, dict):
        raise InputError("recipe and figures must be tables of values")
    if info.schedule.to_dict() != info.sampler:
        raise InputError("the sampler must name steps, sigma_min, sigma_max, rho and solver")
    if (info.parent is None) != (info.handover is None):
        raise InputError("both the parent and the handover noise level must be named, or neither")
    if info.parent is not None:
        check_number("the handover noise level", info.handover, 1e-4, 1e4)
        if not isinstance(info.parent, str):
            raise InputError(f"the parent must be a SHA-256, not {shown(info.parent)}")


def load_checkpoint(
    path: Path, find_parent: Callable[[str], Checkpoint], expected_sha256: str | None = None
) -> Checkpoint:
    """Reads a file strictly: metadata, keys, shapes, dtypes and finite values must all be right; memory for the model
    is taken only after that.

    `find_parent(sha256)` supplies the parent of a tuned file. Raises CheckpointError with one sentence."""
    path = Path(path)
    info = read_info(path)
    sha256 = file_sha256(path)
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise CheckpointError(f"{path.name} is not the file that the manifest lists: its SHA-256 differs")
    parts = (NetworkConfig.from_dict(info.network), PriorConfig.from_dict(info.prior), info.benchmark.hints)
    if info.parent is None or info.handover is None:  # both, or neither
        with torch.device("meta"):
            expected = Denoiser(*parts).state_dict()
        tensors = _read_tensors(path, expected, whole=True)
        model: AnyDenoiser = Denoiser(*parts)
        model.load_state_dict(tensors)
    else:
        parent = find_parent(info.parent)
        if not isinstance(parent.denoiser, Denoiser):
            raise CheckpointError(f"{path.name} continues a tuned checkpoint; its parent must be a base one")
        if any(getattr(info, k) != getattr(parent.info, k) for k in INHERITED):
            raise CheckpointError(f"{path.name} does not fit its parent {parent.info.title}")
        tensors = _read_tensors(path, parent.denoiser.state_dict(), whole=False)
        model = TunedDenoiser(parent.denoiser, float(info.handover))
        model.expert.load_state_dict(tensors, strict=False)
    return Checkpoint(model.eval().requires_grad_(False), info, sha256)


def _read_tensors(path: Path, expected: dict[str, Tensor], whole: bool) -> dict[str, Tensor]:
    """The tensors of a file in float32, those of `expected` by name and shape: all of them if `whole`, else some."""
    tensors, name = {}, path.name
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            unknown, missing = sorted(keys - set(expected)), sorted(set(expected) - keys) if whole else []
            for what, which in (("unknown", unknown), ("missing", missing)):
                if which:
                    raise CheckpointError(f"{name} does not fit its network: {what} tensors {shown(which[:3], 120)}")
            if not keys:
                raise CheckpointError(f"{name} holds no tensors")
            parts = {key: file.get_slice(key) for key in keys}
            for key, part in parts.items():
                if part.get_dtype() not in DTYPES:
                    raise CheckpointError(f"{name}: {key} has dtype {part.get_dtype()}; allowed are F16, BF16, F32")
                if list(part.get_shape()) != list(expected[key].shape):
                    shapes = f"{part.get_shape()} where {list(expected[key].shape)}"
                    raise CheckpointError(f"{name}: {key} has shape {shapes} is needed")
            for key in parts:
                tensors[key] = file.get_tensor(key).float()
                if not tensors[key].isfinite().all():
                    raise CheckpointError(f"{name}: {key} holds values that are not finite")
    except SafetensorError as error:
        raise CheckpointError(f"{name} is not a complete safetensors file ({shown(str(error), 120)})") from None
    return tensors
