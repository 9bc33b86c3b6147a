"""Which grid to sample on: the coarse tier that a CPU is fast enough for, or the fine one that wants a GPU."""

import torch

from .library import Library
from .pdes import get_pde
from .pdes.base import InputError

GPU_RESOLUTION = 128


def grids(library: Library, pde: str) -> list[int]:
    """Resolutions at which there is a checkpoint for `pde`, coarsest first."""
    return sorted({entry["resolution"] for entry in library.manifest() if entry["pde"] == pde})


def grid(library: Library, pde: str, asked: int | None = None) -> int:
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
