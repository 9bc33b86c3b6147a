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
PANEL, LEFT, TOP, CAPTION, BARS, GAP = 190, 34, 30, 34, 44, 10
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
    layout = {"annotations": []}
    for r in range(rows):
        top = (TOP + r * (PANEL + CAPTION)) / height
        for c, column in enumerate(grid.columns):
            number = r * columns + c + 1
            suffix = "" if number == 1 else str(number)
            match_x, match_y = ({}, {}) if number == 1 else ({"matches": "x"}, {"matches": "y"})
            h, w = column.maps[r].shape
            hidden = {"visible": False, "constrain": "domain"}
            domain = [c * share + 0.004, (c + 1) * share - 0.004]
            layout[f"xaxis{suffix}"] = (
                hidden | linked[0] | {"domain": domain, "anchor": f"y{suffix}", "range": [-0.5, w - 0.5]}
            )
            layout[f"yaxis{suffix}"] = (
                hidden
                | linked[1]
                | {
                    "domain": [1 - top - PANEL / height, 1 - top],
                    "anchor": f"x{suffix}",
                    "scaleanchor": f"x{suffix}",
                    "range": [h - 0.5, -0.5],
                }
            )
            where = f"{grid.rows[r]}, {column.title}<br>row %{{y}}, column %{{x}}: %{{z:.4g}}<extra></extra>"
            figure.add_trace(
                go.Heatmap(
                    z=column.maps[r].astype(np.float32),
                    xaxis=f"x{suffix}",
                    yaxis=f"y{suffix}",
                    coloraxis=f"coloraxis{c + 1}" if c else "coloraxis",
                    hovertemplate=where,
                )
            )
            at = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "showarrow": False, "x": 0.5}
            if r == 0:
                layout["annotations"].append(
                    at | {"y": 1, "yanchor": "bottom", "text": column.title, "font": {"size": 13}}
                )
            if column.captions[r]:
                layout["annotations"].append(
                    at | {"y": 0, "yanchor": "top", "text": column.captions[r], "font": {"size": 12}}
                )
            if c == 0:
                label = {"x": 0, "xanchor": "right", "y": 0.5, "xshift": -4, "textangle": -90}
                layout["annotations"].append(at | label | {"text": f"<b>{grid.rows[r]}</b>", "font": {"size": 13}})
    for c, column in enumerate(grid.columns):
        layout[f"coloraxis{c + 1}" if c else "coloraxis"] = colour_axis(column, (c + 0.5) * share, share, height)
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
