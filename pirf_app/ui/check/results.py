"""What was found about fields of one's own, as HTML and as the picture of a sample."""

from html import escape

from gradio.components.plot import PlotData

from ...common.text import percent
from ...evaluation.own_fields import OFF, FieldCheck
from ...pdes import PDE
from ..drawing import html
from ..drawing.figures import plotly_grid
from ..drawing.panels import Grid, Shown, grids

STAGE = "check-stage"


def shown_field(found: FieldCheck, i: int) -> Shown:
    """The measured field number `i` (from 0) as a row of the figure."""
    one, floor = found.samples[i], found.floor["residual_rms"]
    captions = {
        "residual": [f"RMS {one['residual_rms']:.3g} (data floor {floor:.0e})"],
        "difference": [f"solve error {percent(one['solve_error'])}"],
    }
    residual = found.pde.residual(found.fields[i : i + 1])[0].numpy()
    fields, solution = found.fields[i].numpy(), found.solution[i].numpy()
    return Shown(found.pde, [f"Sample {one['sample']}"], [fields], [residual], [solution], captions, made="file's")


def picture(found: FieldCheck, i: int, view: int) -> tuple[PlotData, Grid]:
    """The figure of a field, and the grid that it shows; `view` is a place in `views`."""
    all_grids = grids(shown_field(found, i))
    view = min(view, len(all_grids) - 1)
    return plotly_grid([all_grids[view]]), all_grids[view]


def views(pde: PDE) -> list[tuple[str, int]]:
    """What can be looked at of a series of frames; nothing to choose elsewhere."""
    if pde.view != "frames":
        return []
    count = len(pde.channels)
    frames = [(f"frame {k + 1}", k) for k in range(count)]
    return frames + [(f"change from frame 1 to {k + 1}", count + k) for k in range(1, count)]


def verdict(found: FieldCheck) -> str:
    """The sentence, what was left out, and the notes."""
    out = [f"Sample {k} is left out: {why}." for k, why in found.left_out]
    notes = "".join(f"<li>{escape(text)}</li>" for text in (*out, *found.notes))
    return f"<p>{escape(found.sentence)}</p>" + (f"<ul>{notes}</ul>" if notes else "")


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows of as many cells as there are `heads`; the last cell of a shorter one takes the room of those it lacks."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    lines = []
    for first, *rest in rows:
        spans = [1] * (len(rest) - 1) + [len(heads) - len(rest)]
        cells = "".join(
            f'<td colspan="{span}" class="words">{escape(cell)}</td>' if span > 1 else f"<td>{escape(cell)}</td>"
            for cell, span in zip(rest, spans, strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return f'<div class="figures"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def figures(found: FieldCheck, name: str) -> str:
    """The figures of the file called `name`."""
    size = found.row["resolution"]
    told = f"<strong>{escape(name)}</strong> · {escape(found.pde.full_title)} · {size} × {size}"
    rows = [(title[:1].upper() + title[1:], *values) for title, *values in found.figures()]
    return f'<div class="caption">{told}</div>' + table(("", "These fields", "Solver data (floor)"), rows)


def by_sample(found: FieldCheck) -> str:
    """A line for each sample of the file, those that were left out with the reason."""
    heads = ("Sample", "Residual RMS", "Forward-solve error", OFF.capitalize())
    lines = {int(row[0]): row for row in found.by_sample()}
    lines |= {k: (str(k), f"left out: {why}") for k, why in found.left_out}
    return table(heads, [lines[k] for k in sorted(lines)])


def width(grid: Grid) -> str:
    return html.grid_width(grid, STAGE)
