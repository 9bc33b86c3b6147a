"""A comparison as files: `.npz` (which can be read back), `.csv`, and the first view that the page opens on."""

import csv
import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..common.checks import InputError
from ..common.files import write_arrays, write_text
from ..common.paths import ASSETS
from ..models.library import AnyLibrary
from ..pdes import get_pde
from .comparison import Comparison, MethodResult, Settings, compare, last, usual

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
FIRST_VIEW = ASSETS / "first_view.npz"
# What the page shows of every method, and of solver data.
SHOWN = {"nfe", "seconds", "precision", "residual_ratio", "solve_error_ratio", "conservation_rate", "amplitude"}
SHOWN_FLOORS = {"residual_rms", "solve_error_median", "boundary_rms", "boundary_rounding", "amplitude_range"}
PARTS = ("fields", "residual", "solution")


def file_stem(settings: Settings) -> str:
    return f"pirf-{settings.pde}-{settings.steps}steps-seed{settings.seed}"


def write_npz(comparison: Comparison, path: Path) -> Path:
    """`<method>_fields`, `<method>_residual`, `<method>_solution` for every method; `fields`, `residual`, `solution`
    once more for the last one; `noise_seed`; `meta` (JSON: settings, rows, floors, sentence, notes)."""
    arrays = {f"{r.method}_{part}": getattr(r, part) for r in comparison.results for part in PARTS}
    arrays |= {part: getattr(comparison.results[-1], part) for part in PARTS}
    arrays["noise_seed"] = np.int64(comparison.settings.seed)
    arrays["meta"] = np.array(json.dumps(comparison.to_dict()))
    write_arrays(path, **arrays)
    return path


def read_npz(path: Path) -> Comparison:
    """The comparison that `write_npz` wrote. Raises InputError if the file is missing, damaged or of another kind."""
    try:
        with np.load(path, allow_pickle=False) as data:
            meta = json.loads(str(data["meta"]))
            settings = Settings(**meta["settings"] | {"methods": tuple(meta["settings"]["methods"])})
            channels = len(get_pde(settings.pde).channels)
            results = []
            for row in meta["rows"]:
                fields, residual, solution = (data[f"{row['method']}_{part}"].astype(np.float32) for part in PARTS)
                n, c, h, w = fields.shape
                if (n, c) != (settings.n, channels) or residual.shape != (n, h, w) or solution.shape != fields.shape:
                    raise ValueError("shapes do not fit")
                if not all(np.isfinite(x).all() for x in (fields, residual, solution)):
                    raise ValueError("values are not finite")
                samples = row.pop("samples")
                results.append(MethodResult(row["method"], fields, residual, solution, samples, row))
            if tuple(r.method for r in results) != settings.methods or not results:
                raise ValueError("methods do not fit")
            if not all(r.row.keys() >= SHOWN for r in results) or not meta["floors"].keys() >= SHOWN_FLOORS:
                raise ValueError("another version of this app wrote it")
            return Comparison(settings, tuple(results), meta["floors"], tuple(meta["notes"]))
    except UNREADABLE as error:
        raise InputError(f"{Path(path).name} cannot be read as a comparison ({error})") from None


def csv_text(comparison: Comparison) -> str:
    """One line per method and sample."""
    settings = comparison.settings
    out = io.StringIO()
    names = list(comparison.results[0].samples)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["pde", "resolution", "method", "steps", "nfe", "precision", "seed", "sample", *names])
    for result in comparison.results:
        row = result.row
        for k in range(settings.n):
            head = [settings.pde, row["resolution"], result.method, settings.steps, row["nfe"], row["precision"]]
            head += [settings.seed, k]
            writer.writerow(head + [f"{result.samples[name][k]:.6g}" for name in names])
    return out.getvalue()


def write_csv(comparison: Comparison, path: Path) -> Path:
    write_text(path, csv_text(comparison))
    return path


def write_first_view(
    library: AnyLibrary,
    path: Path = FIRST_VIEW,
    pde: str = "darcy",
    methods: list[str] | None = None,
    steps: int = 10,
    n: int = 4,
    seed: int = 0,
) -> Comparison:
    """Computes the comparison that the page opens on and writes it to `path`. Raises InputError."""
    comparison = last(compare(library, pde, methods or usual(library.methods(pde)), steps, n, seed))
    write_npz(comparison, path)
    return comparison
