"""The comparison on show as files to download, and the precomputed one that the page opens on."""

from pathlib import Path

from ...common.checks import InputError
from ...evaluation.comparison import Comparison
from ...evaluation.exports import file_stem, read_npz, write_csv, write_npz
from ..drawing import html
from ..drawing.figures import png_grid
from ..drawing.panels import shown_sample, still


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
        png_grid(grid, html.describe(comparison.settings, benchmark=comparison.benchmark), comparison.sentence)
    )
    write_csv(comparison, paths[2])
    return [str(path) for path in paths]
