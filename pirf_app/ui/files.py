"""The comparison on show as files to download, and the precomputed one that the page opens on."""

from pathlib import Path

from ..comparison import Comparison
from ..exports import file_stem, read_npz, write_csv, write_npz
from ..pdes.base import InputError
from . import parts
from .figures import png_grid
from .panels import shown_sample, still


def first_view(path: Path) -> Comparison | None:
    try:
        return read_npz(path)
    except InputError:
        return None


def export(comparison: Comparison, folder: Path) -> list[str]:
    """Writes the three downloads into `folder`; their paths."""
    stem = folder / file_stem(comparison.settings)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("npz", "png", "csv")]
    write_npz(comparison, paths[0])
    grid = still(shown_sample(comparison, 0))
    paths[1].write_bytes(
        png_grid(grid, parts.describe(comparison.settings, benchmark=comparison.benchmark), comparison.sentence)
    )
    write_csv(comparison, paths[2])
    return [str(path) for path in paths]
