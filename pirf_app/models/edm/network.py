"""Networks that other EDM code bases published, as checkpoints: `EDMPrecond` around `SongUNet` in its DDPM++ form
(arXiv 2206.00364, table 1 and appendix F.2), pickled by `torch_utils.persistence` or saved by torch.save, whole, in a
training state or as a state dictionary.

Such a pickle carries its own source code, to be executed by whoever unpickles it. Here it is read as data
(`inert_pickle.py`): the source is never looked at, and the weights go by their names into `diffusion/network.py`, which
computes the same function. Everything that would make it another function is refused.
"""

import mmap
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...common.checks import InputError, shown
from ...common.text import megabytes
from ...diffusion.denoiser import Denoiser
from ...diffusion.network import NetworkConfig
from ...diffusion.sampler import Schedule
from ...pdes import get_pde
from ...pdes.units import in_units
from ..checkpoint import MAX_BYTES, CheckpointError, CheckpointInfo, file_sha256
from .modules import NAMES, network
from .pickle_reader import Object, read, told
from .tensors import shape, tensor
from .torch_files import archive, is_legacy, legacy

MAX_FILE = 10**9  # a published network has 62 million parameters: 248 MB in single precision
SCHEDULE = Schedule(steps=18, sigma_min=0.002, sigma_max=80.0, rho=7.0, solver="heun")  # of arXiv 2206.00364, table 1


def import_edm(
    path: Path, pde: str, normalisation: dict | None = None, parameters: Mapping[str, float] | None = None
) -> tuple[Denoiser, CheckpointInfo]:
    """The network of an EDM-style file, in float32 and ready to sample, and what its checkpoint says of it.

    `normalisation` is what it was trained with, as `in_units` takes it (None: the benchmark's own); `parameters` are
    the numbers in the equation of its data (None: the default ones on its grid). Raises CheckpointError with one
    sentence."""
    problem, path = get_pde(pde, parameters or {}), Path(path)
    normalisation = normalisation or problem.normalisation()
    in_units(problem, normalisation)
    try:
        classes, parts = network(_load(path))
        config = _config({name: shape(part) for name, part in parts.items()})
        channels = len(problem.channels)
        if (config.in_channels, config.out_channels) != (channels, channels):
            numbers = f"{config.in_channels} channels in and {config.out_channels} out"
            raise InputError(f"it is a network with {numbers}, and a field of {pde} has {channels}")
        problem.check_request(1, config.resolution, 0)
        model = _filled(config, parts)
    except InputError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    recipe = {"imported": {"file": path.name, "sha256": file_sha256(path), "classes": classes}}
    info = CheckpointInfo(
        pde=pde,
        resolution=config.resolution,
        method="base",
        network=config.to_dict(),
        normalisation=normalisation,
        sampler=SCHEDULE.to_dict(),
        recipe=recipe,
        parameters=problem.differing(config.resolution),
    )
    return model, info


def _load(path: Path) -> object:
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            if not 0 < size <= MAX_FILE:
                limit = megabytes(MAX_FILE)
                raise InputError(f"it is {megabytes(size)}; a pickled network has some bytes and at most {limit}")
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # open while a storage may be asked for
        if pages[:2] == b"PK":
            return archive(pages, NAMES)
        content = read(pages, NAMES)
        return legacy(pages, NAMES) if is_legacy(content) else content
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror or type(error).__name__})") from None


def _config(shapes: dict[str, tuple[int, ...]]) -> NetworkConfig:
    """The size of a DDPM++ network, read off the names and shapes of its tensors. Raises InputError."""
    sizes = {int(found[1]) for name in shapes if (found := re.match(r"enc\.(\d{1,4})x\1_", name))}
    levels = sorted(sizes, reverse=True)
    if not levels:
        raise InputError("it has no encoder with levels such as 64x64, so it is no DDPM++ network")

    def axis(name: str, i: int) -> int:
        found = shapes.get(f"{name}.weight", ())
        if len(found) != 4:
            raise InputError(f"it has no convolution {shown(name, 80)}, so it is no DDPM++ network")
        return found[i]

    top = f"{levels[0]}x{levels[0]}"
    base = axis(f"enc.{top}_conv", 0)
    widths = [axis(f"enc.{n}x{n}_block0.conv0", 0) for n in levels]
    if not base or any(width % base for width in widths):
        raise InputError(f"it has levels of {widths} channels, which are no multiples of the first {base}")
    return NetworkConfig(
        resolution=levels[0],
        in_channels=axis(f"enc.{top}_conv", 1),
        out_channels=axis(f"dec.{top}_aux_conv", 0),
        base_channels=base,
        multipliers=tuple(width // base for width in widths),
        blocks=sum(f"enc.{top}_block{i}.conv0.weight" in shapes for i in range(len(shapes))),
        attention=tuple(n for n in levels if f"enc.{n}x{n}_block0.qkv.weight" in shapes),
    ).check()


def published_names(config: NetworkConfig) -> dict[str, str]:
    """What SongUNet calls the parts of our network, by what `network.UNet` calls them."""
    at = [f"{config.resolution >> level}x{config.resolution >> level}" for level in range(len(config.multipliers))]
    encoder, decoder = [], [f"{at[-1]}_in0", f"{at[-1]}_in1"]
    for level, size in enumerate(at):
        encoder.append(f"{size}_down" if level else f"{size}_conv")
        encoder += [f"{size}_block{i}" for i in range(config.blocks)]
    for size in reversed(at):
        decoder += [f"{size}_up"] if size != at[-1] else []
        decoder += [f"{size}_block{i}" for i in range(config.blocks + 1)]
    names = {f"encoder.{i}": f"enc.{name}" for i, name in enumerate(encoder)}
    names |= {f"decoder.{i}": f"dec.{name}" for i, name in enumerate(decoder)}
    return names | {
        "map0": "map_layer0",
        "map1": "map_layer1",
        "out_norm": f"dec.{at[0]}_aux_norm",
        "out_conv": f"dec.{at[0]}_aux_conv",
    }


def _filled(config: NetworkConfig, parts: dict[str, Object]) -> Denoiser:
    """A denoiser with the weights of the file: as many, of the same shapes, all finite. Raises InputError."""
    with torch.device("meta"):
        expected = Denoiser(config).network.state_dict()
    if (size := 2 * sum(weight.numel() for weight in expected.values())) > MAX_BYTES:
        limit = megabytes(MAX_BYTES)
        raise InputError(f"it is a network of {megabytes(size)} in half precision; a checkpoint has {limit}")
    names = {key: _published(key, published_names(config)) for key in expected}
    unknown, missing = sorted(set(parts) - set(names.values())), sorted(set(names.values()) - set(parts))
    for what, which in (("tensors that DDPM++ has not", unknown), ("no tensors", missing)):
        if which:
            raise InputError(f"it has {what}: {shown(which[:3], 160)}")
    weights: dict[str, Tensor] = {}
    for key, name in names.items():
        if shape(parts[name]) != tuple(expected[key].shape):
            found = f"shape {told(shape(parts[name]))} where {list(expected[key].shape)}"
            raise InputError(f"it has {name} of {found} is needed")
        weights[key] = tensor(parts[name]).float()
        if not weights[key].isfinite().all():
            raise InputError(f"it has values that are not finite, in {name}")
    model = Denoiser(config)
    model.network.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _published(key: str, names: dict[str, str]) -> str:
    owner, _, rest = key.partition(".")
    if owner in ("encoder", "decoder"):
        index, _, rest = rest.partition(".")
        owner = f"{owner}.{index}"
    renamed = rest.replace("attention.norm.", "norm2.").replace("attention.", "")
    return f"{names[owner]}.{renamed}"
