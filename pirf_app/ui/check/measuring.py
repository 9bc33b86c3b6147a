"""Fields from a visitor's file, measured within what a page may take: pieces of work for the lane."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ...common.checks import InputError
from ...common.text import megabytes
from ...evaluation.own_data import read_fields
from ...evaluation.own_fields import FieldCheck, data_floor, measure_fields
from ...models.checkpoint import MAX_BYTES
from ...pdes import PDE

LIMIT = megabytes(MAX_BYTES).replace(".0", "")  # of a file, and of its arrays together
MAX_POINTS = 2**20  # of all samples together: 256 of 64x64
FINEST, FINEST_SLOW = 256, 128  # grids; slow is a solver whose data one has no endless stream of
AGAINST = 64  # held-out fields where no statistics are kept: a visitor waits for them


def check_grid(pde: PDE, resolution: int) -> None:
    """Raises InputError for a grid that would keep others waiting too long."""
    finest = FINEST_SLOW if pde.training_pool else FINEST
    if resolution > finest:
        raise InputError(
            f"{pde.title} at {resolution}x{resolution} takes too long here, where {finest}x{finest} is the finest "
            f"grid: measure it with python -m pirf_app check"
        )


def measuring(path: Path, pde: PDE, keys: Mapping[str, str] | None, scaling: str | dict) -> Iterator[str | FieldCheck]:
    """Yields what comes next, in words, and last the result. Raises InputError."""
    yield "Reading the file"
    fields = read_fields(path, pde, keys, scaling, MAX_BYTES)
    there, resolution = len(fields), fields.shape[-1]
    check_grid(pde, resolution)
    pde.check_request(there, resolution, 0)
    fields = fields[: max(1, MAX_POINTS // resolution**2)].clone()
    yield f"Solver data at {resolution} × {resolution} to compare with"
    data_floor(pde.name, resolution, pde.own_parameters, AGAINST)
    counted = "1 sample" if len(fields) == 1 else f"{len(fields)} samples"
    yield f"Measuring {counted}"
    found = measure_fields(pde, fields, AGAINST)
    if len(fields) < there:
        note = f"Measured are the first {len(fields)} of {there} samples, which is the most here."
        found = replace(found, notes=[note, *found.notes])
    yield found
