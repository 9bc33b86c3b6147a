"""The comparison grid as an interactive Plotly figure and as a PNG file."""

import io
import json
from functools import lru_cache

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from gradio.components.plot import PlotData
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .panels import Column, Grid

# Pixels of the Plotly figure; panels keep their aspect at any width.
PANEL, LEFT, TOP, CAPTION, BARS = 190, 34, 30, 34, 44
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


def plotly_grid(grid: Grid) -> PlotData:
    """One figure with linked axes for the page. Zooming or panning one panel moves them all."""
    rows, columns = len(grid.rows), len(grid.columns)
    height = TOP + rows * (PANEL + CAPTION) + BARS
    share = 1 / columns
    figure = go.Figure()
    layout: dict = {"annotations": []}
    for r, name in enumerate(grid.rows):
        top = 1 - (TOP + r * (PANEL + CAPTION)) / height
        for c, column in enumerate(grid.columns):
            tag = str(r * columns + c + 1) if r or c else ""
            box = [c * share + 0.004, (c + 1) * share - 0.004], [top - PANEL / height, top]
            layout[f"xaxis{tag}"], layout[f"yaxis{tag}"] = axes(tag, box, column.maps[r].shape)
            heatmap = go.Heatmap(
                z=column.maps[r].astype(np.float32),
                xaxis=f"x{tag}",
                yaxis=f"y{tag}",
                coloraxis=f"coloraxis{c + 1 if c else ''}",
                hovertemplate=f"{name}, {column.title}<br>row %{{y}}, column %{{x}}: %{{z:.4g}}<extra></extra>",
            )
            figure.add_trace(heatmap)
            at = {"xref": f"x{tag} domain", "yref": f"y{tag} domain", "showarrow": False, "x": 0.5}
            under = {"y": 0, "yanchor": "top", "text": column.captions[r], "font": {"size": 12}}
            above = {"y": 1, "yanchor": "bottom", "text": column.title, "font": {"size": 13}}
            left = {"x": 0, "xanchor": "right", "y": 0.5, "xshift": -4, "textangle": -90, "text": f"<b>{name}</b>"}
            layout["annotations"] += [at | under] if column.captions[r] else []
            layout["annotations"] += [at | above] if r == 0 else []
            layout["annotations"] += [at | left] if c == 0 else []
    for c, column in enumerate(grid.columns):
        layout[f"coloraxis{c + 1 if c else ''}"] = colour_axis(column, (c + 0.5) * share, share, height)
    figure.update_layout(
        **layout,
        template="none",
        height=height,
        autosize=True,
        margin={"l": LEFT, "r": 4, "t": 0, "b": 0, "pad": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "color": "#7a828e"},
        dragmode="zoom",
        hoverlabel={"font": {"family": FONT}},
    )
    return PlotData(type="plotly", plot=json.dumps(json.loads(figure.to_json()) | {"config": CONFIG}))


def axes(tag: str, box: tuple[list[float], list[float]], shape: tuple[int, int]) -> tuple[dict, dict]:
    """The x and y axis of one panel: hidden, square cells, first row on top, moving with the first panel's."""
    h, w = shape
    x = {"visible": False, "constrain": "domain", "domain": box[0], "anchor": f"y{tag}", "range": [-0.5, w - 0.5]}
    y = {"visible": False, "constrain": "domain", "domain": box[1], "anchor": f"x{tag}", "range": [h - 0.5, -0.5]}
    return (x | {"matches": "x"}, y | {"matches": "y"}) if tag else (x, y | {"scaleanchor": "x"})


def colour_axis(column: Column, centre: float, share: float, height: int) -> dict:
    bar = {
        "orientation": "h",
        "x": centre,
        "xanchor": "center",
        "y": (BARS - 4) / height,
        "yanchor": "top",
        "len": share * 0.86,
        "thickness": 9,
        "nticks": 4,
        "ticks": "outside",
        "ticklen": 3,
        "tickfont": {"size": 11},
        "outlinewidth": 0,
        "xpad": 0,
        "ypad": 0,
        "exponentformat": "power",
    }
    return {"colorscale": colour_scale(column.colours), "cmin": column.low, "cmax": column.high, "colorbar": bar}


def png_grid(grid: Grid, heading: str, sentence: str) -> bytes:
    """The same grid as a picture on white, 150 dots per inch, for slides and papers."""
    rows, columns = len(grid.rows), len(grid.columns)
    figure = Figure(figsize=(2.1 * columns + 0.5, 2.25 * rows + 1.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for c, column in enumerate(grid.columns):
        for r in range(rows):
            ax = axes[r, c]
            image = ax.imshow(
                column.maps[r], cmap=column.colours, vmin=column.low, vmax=column.high, interpolation="nearest"
            )
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlabel(column.captions[r], fontsize=8)
            for spine in ax.spines.values():
                spine.set_visible(False)
            if r == 0:
                ax.set_title(column.title, fontsize=9)
            if c == 0:
                ax.set_ylabel(grid.rows[r], fontsize=10, fontweight="bold")
        bar = figure.colorbar(image, ax=list(axes[:, c]), location="bottom", shrink=0.9, aspect=20, pad=0.02)
        bar.outline.set_visible(False)
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
