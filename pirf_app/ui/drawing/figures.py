"""The comparison grid as an interactive Plotly figure and as a PNG file."""

import io
import json
from functools import lru_cache

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from gradio.components.plot import PlotData

from .axes import Axis
from .charts import steps
from .panels import Column, Grid

# Pixels of the Plotly figure; panels keep their aspect at any width.
WIDTH, LEFT, RIGHT, TOP, CAPTION, TICKS, BARS, GAP = 1070, 54, 8, 30, 34, 18, 60, 16
CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "toImage", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"


@lru_cache(maxsize=16)
def colour_scale(name: str) -> list:
    stops = np.linspace(0, 1, 33)
    return [[float(t), "rgb({},{},{})".format(*(round(255 * v) for v in mpl.colormaps[name](t)[:3]))] for t in stops]


def panel_size(columns: int) -> int:
    """Height in pixels of a panel; its width too on a page that is wide enough."""
    return min(250, (WIDTH - LEFT - RIGHT) // columns - GAP)


def plotly_grid(grids: list[Grid], active: int = 0) -> PlotData:
    """One figure with linked axes for the page: zooming or panning one panel moves them all.

    It holds the maps of all `grids` (same rows and columns, other maps), each array once, and shows number `active`;
    `layout.meta.views` says for each grid which traces are visible and what the titles are."""
    shown = grids[active]
    rows, columns = len(shown.rows), len(shown.columns)
    panel = panel_size(columns)
    height = TOP + rows * (panel + CAPTION) + TICKS + BARS
    share, gap = 1 / columns, GAP / 2 / (WIDTH - LEFT - RIGHT)
    maps, traces, scales, titles = [], {}, {}, {}
    layout: dict = {"annotations": []}
    for r, name in enumerate(shown.rows):
        top = 1 - (TOP + r * (panel + CAPTION)) / height
        for c, column in enumerate(shown.columns):
            tag = str(r * columns + c + 1) if r or c else ""
            box = [c * share + gap, (c + 1) * share - gap], [top - panel / height, top]
            x, y = axes(tag, box, shown.axes, below=r == rows - 1, left=c == 0)
            layout[f"xaxis{tag}"], layout[f"yaxis{tag}"] = x, y
            for grid in grids:
                other = grid.columns[c]
                if (r, c, id(other.maps[r])) in traces:
                    continue
                key = c, other.colours, other.low, other.high
                scales.setdefault(key, (f"coloraxis{len(scales) + 1 if scales else ''}", c, other))
                traces[r, c, id(other.maps[r])] = len(maps)
                maps.append(heatmap(other, r, name, tag, shown.axes, scales[key][0]))
            at = {"xref": f"x{tag} domain", "yref": f"y{tag} domain", "showarrow": False, "x": 0.5}
            shift = -TICKS if r == rows - 1 else 0
            under = {"y": 0, "yanchor": "top", "yshift": shift, "text": column.captions[r], "font": {"size": 12}}
            above = {"y": 1, "yanchor": "bottom", "text": column.title, "font": {"size": 13}}
            left = {"x": 0, "xanchor": "right", "y": 0.5, "xshift": -20, "textangle": -90, "text": f"<b>{name}</b>"}
            layout["annotations"] += [at | under] if column.captions[r] else []
            if r == 0:
                titles[c] = len(layout["annotations"])
                layout["annotations"].append(at | above)
            layout["annotations"] += [at | left] if c == 0 else []
    layout |= {tag: colour_axis(column, (c + 0.5) * share, share, height) for tag, c, column in scales.values()}
    views = []
    for grid in grids:
        seen = {traces[r, c, id(m)] for c, column in enumerate(grid.columns) for r, m in enumerate(column.maps)}
        text = {f"annotations[{titles[c]}].text": column.title for c, column in enumerate(grid.columns)}
        views.append({"visible": [i in seen for i in range(len(maps))], "layout": text})
    for trace, visible in zip(maps, views[active]["visible"], strict=True):
        trace.visible = visible
    layout |= {
        "meta": {"views": views, "active": active},
        "template": "none",
        "height": height,
        "autosize": True,
        "margin": {"l": LEFT, "r": RIGHT, "t": 0, "b": 0, "pad": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "color": "#7a828e"},
        "dragmode": "zoom",
        "hoverlabel": {"font": {"family": FONT}},
    }
    figure = go.Figure(maps, layout)  # at once: adding to a figure costs ten times as much
    return PlotData(type="plotly", plot=json.dumps(json.loads(figure.to_json()) | {"config": CONFIG}))


def heatmap(column: Column, row: int, name: str, tag: str, around: tuple[Axis, Axis], scale: str) -> go.Heatmap:
    vertical, horizontal = around
    where = f"{horizontal.name} %{{x:.3g}}, {vertical.name} %{{y:.3g}}"
    return go.Heatmap(
        z=column.maps[row].astype(np.float32),
        x0=horizontal.first,
        dx=horizontal.step,
        y0=vertical.first,
        dy=vertical.step,
        xaxis=f"x{tag}",
        yaxis=f"y{tag}",
        coloraxis=scale,
        hovertemplate=f"{name}, {column.title}<br>{where}: %{{z:.4g}}<extra></extra>",
    )


def axes(tag: str, box: tuple[list, list], around: tuple[Axis, Axis], below: bool, left: bool) -> tuple[dict, dict]:
    """The x and y axis of one panel, growing to the right and upwards and moving with the first panel's; marked below
    the last row and left of the first column."""
    made = []
    for letter, axis, domain, marked in (("x", around[1], box[0], below), ("y", around[0], box[1], left)):
        made.append(
            {
                "constrain": "domain",
                "domain": domain,
                "anchor": f"{'y' if letter == 'x' else 'x'}{tag}",
                "range": list(axis.edges),
                "tickvals": [at for at, _ in axis.marks],
                "ticktext": [text for _, text in axis.marks],
                "tickfont": {"size": 11},
                "showticklabels": marked,
                "showgrid": False,
                "zeroline": False,
                "ticks": "outside",
                "ticklen": 3,
                "tickcolor": "rgba(0,0,0,0)",
            }
            | ({"matches": letter} if tag else {})
        )
    x, y = made
    return x, y | ({} if tag else {"scaleanchor": "x", "scaleratio": square(around)})


def square(around: tuple[Axis, Axis]) -> float:
    """How long a vertical unit is, as against a horizontal one, for the picture to be square."""
    (bottom, top), (left, right) = (axis.edges for axis in around)
    return (right - left) / (top - bottom)


def tick(value: float) -> str:
    """0.3, −20, 2×10<sup>−5</sup>."""
    digits, _, power = f"{value:.4g}".partition("e")
    return (f"{digits}×10<sup>{int(power)}</sup>" if power else digits).replace("-", "−")


def colour_axis(column: Column, centre: float, share: float, height: int) -> dict:
    values = next(found for count in range(3, 9) if len(found := steps(column.low, column.high, count)) > 1)
    bar = {
        "orientation": "h",
        "x": centre,
        "xanchor": "center",
        "y": (BARS - 4) / height,
        "yanchor": "top",
        "len": share * 0.86,
        "thickness": 9,
        "tickvals": values,
        "ticktext": [tick(value) for value in values],
        "ticks": "outside",
        "ticklen": 3,
        "tickfont": {"size": 11},
        "title": {"text": column.label, "side": "bottom", "font": {"size": 11}},
        "outlinewidth": 0,
        "xpad": 0,
        "ypad": 0,
    }
    return {"colorscale": colour_scale(column.colours), "cmin": column.low, "cmax": column.high, "colorbar": bar}


def png_grid(grid: Grid, heading: str, sentence: str) -> bytes:
    """The same grid as a picture on white, 150 dots per inch, for slides and papers."""
    rows, columns = len(grid.rows), len(grid.columns)
    # Here, not above: they look for fonts, which the page does not need to open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.1 * columns + 0.6, 2.25 * rows + 1.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    vertical, horizontal = grid.axes
    for c, column in enumerate(grid.columns):
        for r in range(rows):
            ax = panels[r, c]
            image = ax.imshow(
                column.maps[r],
                cmap=column.colours,
                vmin=column.low,
                vmax=column.high,
                interpolation="nearest",
                origin="lower",
                extent=(*horizontal.edges, *vertical.edges),
                aspect=square(grid.axes),
            )
            for axis, around, marked in ((ax.xaxis, horizontal, r == rows - 1), (ax.yaxis, vertical, c == 0)):
                at, text = zip(*around.marks, strict=True) if marked else ((), ())
                axis.set_ticks(at, text, fontsize=7)
                axis.set_tick_params(length=0, pad=2)
            ax.set_xlabel(column.captions[r], fontsize=8)
            for spine in ax.spines.values():
                spine.set_visible(False)
            if r == 0:
                ax.set_title(column.title, fontsize=9)
            if c == 0:
                ax.set_ylabel(grid.rows[r], fontsize=10, fontweight="bold")
        bar = figure.colorbar(image, ax=list(panels[:, c]), location="bottom", shrink=0.9, aspect=20, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(column.label, fontsize=7)
        bar.ax.tick_params(labelsize=7)
        bar.locator = mpl.ticker.MaxNLocator(4)
        bar.formatter.set_powerlimits((-2, 3))
        bar.update_ticks()
        bar.ax.xaxis.get_offset_text().set_size(7)
    figure.suptitle(heading, fontsize=10)
    figure.supxlabel(sentence, fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
