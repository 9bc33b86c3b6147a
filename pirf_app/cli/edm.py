"""`python -m pirf_app models import-edm`: a network that another EDM code base published, as a checkpoint."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..common.checks import InputError, shown
from ..common.text import megabytes
from ..models.checkpoint import MAX_BYTES, save_checkpoint
from ..models.edm.network import import_edm
from ..pdes import PDE, get_pde, pde_names
from ..pdes.units import TRANSPOSED
from .options import Parameters, check_folder, named_values, numbers

PRESET = "published"


def own_scaling(problem: PDE, offset: str | None, scale: str | None, transpose: bool) -> dict:
    """The normalisation that the options ask for; without them this app's own. Raises InputError."""
    if (offset is None) != (scale is None):
        raise InputError("give both --offset and --scale, or neither")
    found = problem.normalisation()
    if offset is not None and scale is not None:
        found = {"offset": numbers("offset", offset), "scale": numbers("scale", scale)}
    return found | ({TRANSPOSED: True} if transpose else {})


def published(problem: PDE, preset: str, offset: str | None, scale: str | None, transpose: bool) -> dict:
    """The normalisation of the networks that others have published. Raises InputError."""
    if preset != PRESET:
        raise InputError(f"unknown preset {shown(preset)}: there is {PRESET}")
    if offset is not None or scale is not None or transpose:
        raise InputError(f"--preset {PRESET} sets scaling and axes: leave out --offset, --scale and --transpose")
    if problem.published_scaling is None:
        raise InputError(f"no published scaling of {problem.name} is known: give --offset and --scale")
    return problem.published_scaling


def import_edm_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="EDMPrecond around a SongUNet (DDPM++), by itself or under 'ema' or 'net': a pickle, or a file of "
            "torch.save; or its state dictionary"
        ),
    ],
    pde: Annotated[str, typer.Option(help=f"what its fields are: {', '.join(pde_names())}")],
    out: Annotated[Path | None, typer.Option(help="file to write (default: FILE with .safetensors)")] = None,
    float32: Annotated[bool, typer.Option("--float32", help="keep single precision, at twice the size")] = False,
    offset: Annotated[
        str | None, typer.Option(help="the physical value that the network's 0 stands for, one a channel: 7.5,0.0078")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="the physical difference that its 1 stands for, one a channel: 5,0.0087")
    ] = None,
    transpose: Annotated[
        bool, typer.Option("--transpose", help="its rows are this app's columns: the axes are turned at import")
    ] = False,
    parameter: Parameters = None,
    preset: Annotated[
        str | None, typer.Option(help=f"{PRESET}: scaling, axes and parameters of what others have published")
    ] = None,
) -> None:
    """Read a published EDM network without executing anything in it and write it as a checkpoint. It is taken to see
    fields as (field - offset) / scale, channel by channel; without the two, in this app's own normalisation."""
    problem, parameters = get_pde(pde), named_values(parameter)
    if preset is None:
        normalisation = own_scaling(problem, offset, scale, transpose)
    else:
        normalisation = published(problem, preset, offset, scale, transpose)
        parameters = dict(problem.published_parameters) | parameters
    out = out or file.with_suffix(".safetensors")
    if check_folder(out).suffix != ".safetensors":
        raise InputError(f"the name of the checkpoint to write must end in .safetensors, not {out.name!r}")
    model, info = import_edm(file, problem.name, normalisation, parameters)
    weights = list(model.network.parameters())
    count = sum(weight.numel() for weight in weights)
    if not float32 and max(weight.abs().max().item() for weight in weights) > torch.finfo(torch.float16).max:
        raise InputError(f"{file.name} has weights too large for half precision: choose --float32")
    if float32 and 4 * count > MAX_BYTES:
        raise InputError(f"{file.name} would be over {megabytes(MAX_BYTES)}: leave out --float32")
    sha256 = save_checkpoint(out, model, info, full=float32)
    told = [f"{info.resolution}x{info.resolution}", info.benchmark.in_words(info.parameters)]
    size = ", ".join(filter(None, [*told, f"{count / 1e6:.1f} million parameters"]))
    print(f"wrote {out}, {size}, {megabytes(out.stat().st_size)}, SHA-256 {sha256}")
