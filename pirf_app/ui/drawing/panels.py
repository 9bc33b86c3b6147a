"""The grid of pictures as data: one row per method, one column per quantity, one colour scale per column."""

import base64
import io
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from PIL import Image

from ...common.text import percent
from ...evaluation.comparison import Comparison
from ...evaluation.verdicts import method_title
from ...pdes import PDE, get_pde
from .axes import Axis, axes, given, with_unit

SEQUENTIAL, RESIDUAL, DIVERGING, DIFFERENCE = "viridis", "magma", "RdBu_r", "PuOr_r"
Scale = tuple[str, float, float]  # colour map, lowest and highest value


@dataclass(frozen=True)
class Column:
    """One quantity: a map `[h, w]`, whose first row is drawn at the bottom, and a caption (may be "") for every row of
    the grid; `low` to `high` is the colour scale, `label` stands at its bar."""

    title: str
    label: str
    colours: str
    low: float
    high: float
    maps: list[np.ndarray]
    captions: list[str]


@dataclass(frozen=True)
class Grid:
    rows: list[str]
    columns: list[Column]
    axes: tuple[Axis, Axis]  # vertical and horizontal


@dataclass(frozen=True)
class Shown:
    """One sample under several methods: `fields` and `solutions` `[c, h, w]`, `residuals` `[h, w]`, and what is printed
    under the residual and under the difference. `residual_scale` fixes the range of log10 |residual|; `made` is how the
    fields came about."""

    pde: PDE
    names: list[str]
    fields: list[np.ndarray]
    residuals: list[np.ndarray]
    solutions: list[np.ndarray]
    captions: dict[str, list[str]] = field(default_factory=dict)
    residual_scale: tuple[float, float] | None = None
    made: str = "generated"

    def under(self, key: str) -> list[str]:
        return self.captions.get(key) or [""] * len(self.names)

    def grid(self, columns: list[Column]) -> Grid:
        return Grid(self.names, columns, axes(self.pde, self.residuals[0].shape))


def log_residual(residual: np.ndarray) -> np.ndarray:
    """log10 |r|, not a number where no equation is asked for."""
    size = np.abs(residual)
    return np.log10(size, out=np.full_like(size, np.nan), where=size > 0)


def spread(maps: list[np.ndarray], low: float, high: float) -> tuple[float, float] | None:
    """Two quantiles of all finite values; None if there are none."""
    values = np.concatenate([m.ravel() for m in maps])
    values = values[np.isfinite(values)]
    return tuple(float(v) for v in np.quantile(values, (low, high))) if len(values) else None


def field_range(positive: bool, maps: list[np.ndarray]) -> tuple[float, float]:
    low, high = spread(maps, 0.002, 0.998) or (0.0, 1.0)
    if positive:
        return (low, high) if high > low else (low - 1e-6, high + 1e-6)
    top = max(abs(low), abs(high), 1e-12)
    return -top, top


def residual_range(maps: list[np.ndarray]) -> tuple[float, float]:
    low, high = spread(maps, 0.05, 1.0) or (-1.0, 0.0)
    return min(low, high - 1), high


def residual_column(shown: Shown) -> Column:
    logs = [log_residual(r) for r in shown.residuals]
    scale = shown.residual_scale or residual_range(logs)
    return Column("log₁₀ |residual|", "log₁₀ |residual|", RESIDUAL, *scale, logs, shown.under("residual"))


def differences(shown: Shown, channels: list[int]) -> tuple[Scale, dict[int, list[np.ndarray]]]:
    """Generated less the solver's, with one scale for all of these channels."""
    maps = {i: [f[i] - s[i] for f, s in zip(shown.fields, shown.solutions, strict=True)] for i in channels}
    return (DIFFERENCE, *field_range(False, sum(maps.values(), []))), maps


def channel_grid(shown: Shown) -> Grid:
    """A column per channel, the residual, and for the solution the solver's and the difference."""
    pde, solved = shown.pde, shown.pde.solution_channels
    from_what = [f"for the {given(pde, shown.made)}"] * len(shown.names)
    blank = [""] * len(shown.names)
    generated, solver, errors = [], [], []
    for i, channel in enumerate(pde.channels):
        label, name = with_unit(channel.title, channel.unit), channel.name
        own, exact = [f[i] for f in shown.fields], [s[i] for s in shown.solutions]
        low, high = field_range(channel.positive, own + (exact if i in solved else []))
        scale = SEQUENTIAL if channel.positive else DIVERGING, low, high
        generated.append(Column(channel.title, label, *scale, own, blank))
        if i in solved:
            solver.append(Column(f"solver's {name}", label, *scale, exact, from_what))
            scale, maps = differences(shown, [i])
            under = shown.under("difference") if i == solved[-1] else blank
            label = with_unit(f"difference in {name}", channel.unit)
            errors.append(Column(f"{name} − solver's {name}", label, *scale, maps[i], under))
    return shown.grid([*generated, residual_column(shown), *solver, *errors])


def frame_grids(shown: Shown) -> list[Grid]:
    """One grid per frame with the frames themselves, then one per frame with their change since the first; a map that
    several of them show is the same array. Frames share their colour scales."""
    pde, names, unit = shown.pde, [c.name for c in shown.pde.channels], shown.pde.channels[0].unit
    frames, count = range(len(names)), len(shown.names)
    residual, (error_scale, errors) = residual_column(shown), differences(shown, list(frames))
    made = []
    for change in (False, True):
        own, exact = (
            [[a[k] - a[0] if change else a[k] for a in arrays] for k in frames]
            for arrays in (shown.fields, shown.solutions)
        )
        positive = pde.channels[0].positive and not change
        scale = SEQUENTIAL if positive else DIVERGING, *field_range(positive, sum(own + exact, []))
        label = with_unit("change since frame 1" if change else pde.channels[0].title.split(" at ")[0], unit)
        for k in frames:
            name = f"{names[k]} − {names[0]}" if change else names[k]
            title = f"change {name}" if change else pde.channels[k].title + (" (the input)" if k == 0 else "")
            under = shown.under("difference")
            if change and k == 0:
                title, under = "no change yet: frame 1", [""] * count
            less, difference = f"{names[k]} − solver's {names[k]}", with_unit("difference", unit)
            columns = [
                Column(title, label, *scale, own[k], [""] * count),
                residual,
                Column(f"solver's {name}", label, *scale, exact[k], [f"for the {given(pde, shown.made)}"] * count),
                Column(less, difference, *error_scale, errors[k], under),
            ]
            made.append(shown.grid(columns))
    return made


def grids(shown: Shown) -> list[Grid]:
    """What can be looked at: one grid, or for frames those of `frame_grids`."""
    return frame_grids(shown) if shown.pde.view == "frames" else [channel_grid(shown)]


def view_number(pde: PDE, frame: int, change: bool) -> int:
    """The place in `grids` of a frame (from 0), or of its change since the first."""
    count = len(pde.channels)
    return min(frame, count - 1) + count * change if pde.view == "frames" else 0


def still(shown: Shown) -> Grid:
    """The grid for print: of frames, the first one and what the last one has changed."""
    all_grids = grids(shown)
    if shown.pde.view != "frames":
        return all_grids[0]
    return shown.grid([all_grids[0].columns[0], *all_grids[-1].columns])


def shown_sample(comparison: Comparison, sample: int) -> Shown:
    """Sample number `sample` (from 0) of a comparison."""
    floor, results = comparison.floors["residual_rms"], comparison.results
    captions = {
        "residual": [f"RMS {r.samples['residual_rms'][sample]:.3g} (data floor {floor:.0e})" for r in results],
        "difference": [f"solve error {percent(r.samples['solve_error'][sample])}" for r in results],
    }
    return Shown(
        get_pde(comparison.settings.pde),
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


def picture(values: np.ndarray, colours: str, low: float, high: float) -> Image.Image:
    """A map `[h, w]` as a palette image, one pixel per grid point, the first row at the bottom."""
    scaled = 1 + 254 * (values[::-1] - low) / max(high - low, 1e-30)
    index = np.nan_to_num(np.clip(scaled, 1, 255), nan=0).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette(colours).tobytes())
    return image


def picture_url(values: np.ndarray, colours: str, low: float, high: float) -> str:
    """`picture` as a data URL; small and quick enough to stream."""
    out = io.BytesIO()
    picture(values, colours, low, high).save(out, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
