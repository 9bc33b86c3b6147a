"""`python -m pirf_app models import-edm`: a network that another EDM code base published, as a checkpoint."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from .checkpoints import MAX_BYTES, save_checkpoint
from .cli_parts import check_folder
from .edm_import import import_edm
from .pdes import InputError, get_pde, pde_names
from .sizes import megabytes


def numbers(option: str, values: str) -> list[float]:
    try:
        return [float(value) for value in values.split(",")]
    except ValueError:
        raise InputError(f"--{option} must be numbers separated by commas, one a channel, not {values!r}") from None


def import_edm_command(
    file: Annotated[Path, typer.Argument(help="pickle with an EDMPrecond around a SongUNet (DDPM++) under 'ema'")],
    pde: Annotated[str, typer.Option(help=f"what its fields are: {', '.join(pde_names())}")],
    out: Annotated[Path | None, typer.Option(help="file to write (default: FILE with .safetensors)")] = None,
    float32: Annotated[bool, typer.Option("--float32", help="keep single precision, at twice the size")] = False,
    offset: Annotated[
        str | None, typer.Option(help="the physical value that the network's 0 stands for, one a channel: 7.5,0.0058")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="the physical difference that its 1 stands for, one a channel: 9,0.0078")
    ] = None,
) -> None:
    """Read a published EDM network without executing anything in it and write it as a checkpoint. It is taken to see
    fields as (field - offset) / scale, channel by channel; without the two, in this app's own normalisation."""
    problem, normalisation = get_pde(pde), None
    if (offset is None) != (scale is None):
        raise InputError("give both --offset and --scale, or neither")
    if offset is not None and scale is not None:
        normalisation = {"offset": numbers("offset", offset), "scale": numbers("scale", scale)}
    out = out or file.with_suffix(".safetensors")
    if check_folder(out).suffix != ".safetensors":
        raise InputError(f"the name of the checkpoint to write must end in .safetensors, not {out.name!r}")
    model, info = import_edm(file, problem.name, normalisation)
    weights = list(model.network.parameters())
    count = sum(weight.numel() for weight in weights)
    if not float32 and max(weight.abs().max().item() for weight in weights) > torch.finfo(torch.float16).max:
        raise InputError(f"{file.name} has weights too large for half precision: choose --float32")
    if float32 and 4 * count > MAX_BYTES:
        raise InputError(f"{file.name} would be over {megabytes(MAX_BYTES)}: leave out --float32")
    sha256 = save_checkpoint(out, model, info, full=float32)
    size = f"{info.resolution}x{info.resolution}, {count / 1e6:.1f} million parameters"
    print(f"wrote {out}, {size}, {megabytes(out.stat().st_size)}, SHA-256 {sha256}")
