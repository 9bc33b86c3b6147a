"""The checkpoint format: one safetensors file, strictly read, and the library of bundled ones.

A base file holds a whole denoiser. A tuned file holds only the tensors that tuning changed, and names its parent by
SHA-256; it is read on top of that parent. Never a pickle.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .diffusion.denoiser import Denoiser
from .diffusion.network import NetworkConfig
from .diffusion.sampler import Schedule
from .diffusion.tuned import TunedDenoiser
from .pdes import get_pde
from .pdes.base import InputError

FORMAT_VERSION = 1
MAX_BYTES = 200 * 2**20
MAX_WIDTH, MAX_RESOLUTION, MAX_MODES, MAX_RANK = 512, 512, 128, 1024
DTYPES = {"F16", "BF16", "F32"}
BUNDLED = Path(__file__).resolve().parent.parent / "checkpoints"


class CheckpointError(InputError):
    """A file that cannot be used as a checkpoint; the message says why."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself. `method` is "base" for untuned ones; `parent` the SHA-256 of the file that a
    tuned one continues; `handover` the noise level from which the tuned weights act; `figures` as measured."""

    pde: str
    resolution: int
    method: str
    network: dict
    normalisation: dict
    sampler: dict
    prior_rank: int = 0
    prior_modes: int = 1
    parent: str | None = None
    handover: float | None = None
    recipe: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def schedule(self) -> Schedule:
        return Schedule(**self.sampler)

    @property
    def title(self) -> str:
        return f"{self.pde}-{self.resolution}-{self.method}"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model, ready to sample: `denoiser(x, sigma)`, its info, and the SHA-256 of its file."""

    denoiser: Denoiser | TunedDenoiser
    info: CheckpointInfo
    sha256: str


def normalisation_of(pde_name: str) -> dict:
    channels = get_pde(pde_name).channels
    return {"mean": [c.mean for c in channels], "std": [c.std for c in channels]}


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(path: Path, model: nn.Module, info: CheckpointInfo) -> str:
    """Writes `model` (a Denoiser, or a TunedDenoiser of which only the changed tensors are kept) and returns the
    file's SHA-256. Network weights and prior directions are stored in half precision, the rest in float32."""
    tensors = model.state_dict() if isinstance(model, Denoiser) else changed_tensors(model)
    half = lambda key: key.startswith("network.") or key == "prior.directions"  # noqa: E731
    packed = {
        k: v.detach().cpu().to(torch.float16 if half(k) else torch.float32).contiguous() for k, v in tensors.items()
    }
    temporary = path.with_suffix(".tmp")
    save_file(packed, temporary, {"format": "pirf", "info": json.dumps(asdict(info), sort_keys=True)})
    temporary.replace(path)
    return file_sha256(path)


def changed_tensors(model: TunedDenoiser) -> dict[str, Tensor]:
    base = model.base.state_dict()
    return {k: v for k, v in model.expert.state_dict().items() if not torch.equal(v, base[k])}


def read_info(path: Path) -> CheckpointInfo:
    """The metadata of a checkpoint file, checked. Raises CheckpointError."""
    name = Path(path).name
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{name} is {size / 2**20:.0f} MB; a checkpoint has at most {MAX_BYTES >> 20} MB")
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint file {path}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{name} is not a complete safetensors file ({error})") from None
    if metadata.get("format") != "pirf" or "info" not in metadata:
        raise CheckpointError(
            f"{name} is a safetensors file but not a checkpoint of this app: it has no 'pirf' metadata"
        )
    try:
        values = json.loads(metadata["info"])
        if values["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{name} has format version {values['format_version']}; this app reads {FORMAT_VERSION}"
            )
        unknown = set(values) - {f.name for f in fields(CheckpointInfo)}
        if unknown:
            raise CheckpointError(f"{name} has unknown metadata: {', '.join(sorted(unknown))}")
        info = CheckpointInfo(**values)
        _check_info(info, name)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise CheckpointError(str(error)) from None
        raise CheckpointError(f"the metadata of {name} cannot be read ({type(error).__name__}: {error})") from None
    return info


def _check_info(info: CheckpointInfo, name: str) -> None:
    get_pde(info.pde)
    config = NetworkConfig.from_dict(info.network)
    widths = [config.base_channels * m for m in config.multipliers]
    sane = (
        4 <= info.resolution == config.resolution <= MAX_RESOLUTION
        and 0 < min(widths) <= max(widths) <= MAX_WIDTH
        and len(widths) <= 6
        and 1 <= config.blocks <= 8
        and 0 <= info.prior_rank <= MAX_RANK
        and 1 <= info.prior_modes <= min(MAX_MODES, info.resolution)
        and config.out_channels == len(get_pde(info.pde).channels)
        and config.in_channels == config.out_channels * (2 if info.prior_rank else 1)
    )
    if not sane:
        raise CheckpointError(f"{name} describes a network that this app does not build: {info.network}")
    if info.normalisation != normalisation_of(info.pde):
        raise CheckpointError(f"{name} was trained with another normalisation of {info.pde} fields")
    if (info.parent is None) != (info.handover is None):
        raise CheckpointError(f"{name} must name both its parent and its handover noise level, or neither")
    if info.handover is not None and not 0 < float(info.handover) < 1e4:
        raise CheckpointError(f"{name} has a handover noise level of {info.handover}; it must be above 0")
    _ = info.schedule


def load_checkpoint(
    path: Path, find_parent: Callable[[str], Checkpoint], expected_sha256: str | None = None
) -> Checkpoint:
    """Reads a file strictly: metadata, keys, shapes, dtypes and finite values must all be right.

    `find_parent(sha256)` supplies the parent of a tuned file. Raises CheckpointError with one sentence."""
    path = Path(path)
    info = read_info(path)
    sha256 = file_sha256(path)
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise CheckpointError(f"{path.name} is not the file that the manifest lists: its SHA-256 differs")
    if info.parent is None:
        model: Denoiser | TunedDenoiser = Denoiser(
            NetworkConfig.from_dict(info.network), info.prior_rank, info.prior_modes
        )
        target = model
    else:
        parent = find_parent(info.parent)
        if parent.info.network != info.network or parent.info.pde != info.pde:
            raise CheckpointError(f"{path.name} does not fit its parent {parent.info.title}")
        if not isinstance(parent.denoiser, Denoiser):
            raise CheckpointError(f"{path.name} continues a tuned checkpoint; its parent must be a base one")
        model = TunedDenoiser(parent.denoiser, float(info.handover))
        target = model.expert
    expected = target.state_dict()
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            _check_keys(path.name, keys, set(expected), whole=info.parent is None)
            tensors = {}
            for key in keys:
                part = file.get_slice(key)
                if part.get_dtype() not in DTYPES:
                    raise CheckpointError(
                        f"{path.name}: {key} has dtype {part.get_dtype()}; allowed are F16, BF16, F32"
                    )
                if list(part.get_shape()) != list(expected[key].shape):
                    shapes = f"{part.get_shape()} where {list(expected[key].shape)}"
                    raise CheckpointError(f"{path.name}: {key} has shape {shapes} is needed")
                tensors[key] = file.get_tensor(key).float()
                if not tensors[key].isfinite().all():
                    raise CheckpointError(f"{path.name}: {key} holds values that are not finite")
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a complete safetensors file ({error})") from None
    target.load_state_dict(tensors, strict=info.parent is None)
    return Checkpoint(model.eval().requires_grad_(False), info, sha256)


def _check_keys(name: str, found: set[str], expected: set[str], whole: bool) -> None:
    unknown, missing = sorted(found - expected), sorted(expected - found) if whole else []
    if unknown or missing or not found:
        what = [f"unknown tensors {', '.join(unknown[:3])}"] if unknown else []
        what += [f"missing tensors {', '.join(missing[:3])}"] if missing else []
        raise CheckpointError(f"{name} does not fit its network: {'; '.join(what) or 'it holds no tensors'}")


class Library:
    """The checkpoints in a folder, by its `manifest.json`. Loaded ones are kept in memory."""

    def __init__(self, folder: Path = BUNDLED):
        self.folder = Path(folder)

    def manifest(self) -> list[dict]:
        """Entries `{name, file, sha256, size, pde, resolution, method, parent, figures}`; [] where there is none."""
        try:
            return json.loads((self.folder / "manifest.json").read_text())["models"]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder / 'manifest.json'} cannot be read ({error})") from None

    def write_manifest(self) -> list[dict]:
        """Lists every readable checkpoint of the folder afresh."""
        entries = []
        for path in sorted(self.folder.glob("*.safetensors")):
            info = read_info(path)
            entry = {"name": path.stem, "file": path.name, "sha256": file_sha256(path), "size": path.stat().st_size}
            entry |= {key: getattr(info, key) for key in ("pde", "resolution", "method", "parent", "figures")}
            entries.append(entry)
        (self.folder / "manifest.json").write_text(json.dumps({"models": entries}, indent=1) + "\n")
        return entries

    def methods(self, pde: str, resolution: int | None = None) -> list[str]:
        """Methods there is a checkpoint for, "base" first."""
        found = {e["method"] for e in self.manifest() if e["pde"] == pde and resolution in (None, e["resolution"])}
        return sorted(found, key=lambda m: (m != "base", m))

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
        """A bundled checkpoint by PDE and method. Raises InputError or CheckpointError."""
        get_pde(pde)
        entry = self.find(pde, method, resolution)
        return self._load(entry["file"], entry["sha256"])

    @lru_cache(maxsize=32)  # noqa: B019 - a library lives as long as the process
    def _load(self, file: str, sha256: str) -> Checkpoint:
        return load_checkpoint(self.folder / file, self.find_parent, sha256)

    def load_file(self, path: Path) -> Checkpoint:
        """A checkpoint file from anywhere; its parent, if it has one, must be in this library."""
        return load_checkpoint(path, self.find_parent)

    def find_parent(self, sha256: str) -> Checkpoint:
        for entry in self.manifest():
            if entry["sha256"] == sha256:
                return self._load(entry["file"], sha256)
        raise CheckpointError(f"the parent checkpoint {sha256[:12]} of this tuned checkpoint is not here")

    def resolve(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        """`method` may be a method's name or the path of a checkpoint file for that PDE."""
        get_pde(pde)
        if not (method.endswith(".safetensors") or "/" in method):
            return self.load(pde, method, resolution)
        checkpoint = self.load_file(Path(method))
        if checkpoint.info.pde != pde:
            raise CheckpointError(f"{Path(method).name} is a checkpoint for {checkpoint.info.pde}, not for {pde}")
        return checkpoint
