"""The grid of pictures as data: one row per method, one column per quantity, one colour scale per column."""

import base64
import io
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from PIL import Image

from ..comparison import Comparison, method_title, percent
from ..pdes import PDE, get_pde

SEQUENTIAL, RESIDUAL, DIVERGING, DIFFERENCE = "viridis", "magma", "RdBu_r", "PuOr_r"


@dataclass(frozen=True)
class Column:
    """One quantity: a map `[h, w]` and a caption (may be "") for every row; `low` to `high` is the colour scale."""

    title: str
    colours: str
    low: float
    high: float
    maps: list[np.ndarray]
    captions: list[str]


@dataclass(frozen=True)
class Grid:
    rows: list[str]
    columns: list[Column]


def log_residual(pde: PDE, residual: np.ndarray) -> np.ndarray:
    """log10 |r|, not a number where no equation is asked for."""
    size = np.abs(residual)
    return np.log10(size, out=np.full_like(size, np.nan), where=size > 0)


def field_range(positive: bool, maps: list[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([m.ravel() for m in maps])
    low, high = (float(v) for v in np.quantile(values, (0.002, 0.998)))
    if positive:
        return (low, high) if high > low else (low - 1e-6, high + 1e-6)
    top = max(abs(low), abs(high), 1e-12)
    return -top, top


def residual_range(maps: list[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([m[np.isfinite(m)] for m in maps] or [np.zeros(1)])
    if not len(values):
        return -1.0, 0.0
    low, high = (float(v) for v in np.quantile(values, (0.05, 1.0)))
    return min(low, high - 1), high


def build_grid(
    pde: PDE,
    names: list[str],
    fields: list[np.ndarray],
    residuals: list[np.ndarray],
    solutions: list[np.ndarray],
    captions: dict[str, list[str]],
    residual_scale: tuple[float, float] | None = None,
) -> Grid:
    """A grid from one sample per row: `fields` and `solutions` are `[c, h, w]`, `residuals` `[h, w]`. `captions` are
    printed under the residual ("residual") and under the last difference ("difference")."""
    blank = [""] * len(names)
    columns = []
    scales = {}
    for i, channel in enumerate(pde.channels):
        generated = [f[i] for f in fields]
        solved = [s[i] for s in solutions] if i in pde.solution_channels else []
        scales[i] = (SEQUENTIAL if channel.positive else DIVERGING, *field_range(channel.positive, generated + solved))
        columns.append(Column(channel.title, *scales[i], generated, blank))
    logs = [log_residual(pde, r) for r in residuals]
    scale = residual_scale or residual_range(logs)
    columns.append(Column("log₁₀ |residual|", RESIDUAL, *scale, logs, captions.get("residual", blank)))
    for i in pde.solution_channels:
        name = pde.channels[i].name
        columns.append(Column(f"solver's {name}", *scales[i], [s[i] for s in solutions], blank))
    for i in pde.solution_channels:
        name = pde.channels[i].name
        maps = [f[i] - s[i] for f, s in zip(fields, solutions, strict=True)]
        under = captions.get("difference", blank) if i == pde.solution_channels[-1] else blank
        columns.append(Column(f"{name} − solver's {name}", DIFFERENCE, *field_range(False, maps), maps, under))
    return Grid(names, columns)


def comparison_grid(comparison: Comparison, sample: int) -> Grid:
    """The grid for sample number `sample` (from 0) of a comparison."""
    pde, floor = get_pde(comparison.settings.pde), comparison.floors["residual_rms"]
    results = comparison.results
    captions = {
        "residual": [f"RMS {r.samples['residual_rms'][sample]:.3g} (data floor {floor:.0e})" for r in results],
        "difference": [f"solve error {percent(r.samples['solve_error'][sample])}" for r in results],
    }
    return build_grid(
        pde,
        [method_title(r.method) for r in results],
        [r.fields[sample] for r in results],
        [r.residual[sample] for r in results],
        [r.solution[sample] for r in results],
        captions,
    )


def palette(colours: str) -> np.ndarray:
    """256 RGB entries of a colour map, uint8 `[256, 3]`; entry 0 stands for "no value"."""
    table = (mpl.colormaps[colours](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
    table[0] = 128
    return table


def picture_url(values: np.ndarray, colours: str, low: float, high: float) -> str:
    """A map `[h, w]` as a data URL: a palette PNG, one pixel per grid point; small and quick enough to stream."""
    scaled = 1 + 254 * (values - low) / max(high - low, 1e-30)
    index = np.nan_to_num(np.clip(scaled, 1, 255), nan=0).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette(colours).tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
