"""Pieces of HTML: the preview while sampling, progress, captions and the table of figures."""

from html import escape

from ...common.text import percent
from ...evaluation.comparison import Comparison, Preview, Settings
from ...evaluation.figures import SAME
from ...evaluation.verdicts import method_title
from ...pdes import PDE, get_pde
from .axes import has_walls
from .figures import BARS, CAPTION, GAP, LEFT, RIGHT, TICKS, panel_size
from .panels import Grid, grids, picture_url, shown_sample

NARROWEST = 0.9  # of its full size; below that the grid scrolls instead of shrinking further

GUIDE = """
Every row is one model; all rows start from the same noise, and each column has one colour scale. The axes grow to the
right and upwards. Where time is an axis (Burgers) it runs upwards, so the initial state is the lowest row of the
picture; where a sample is a series of frames (Kolmogorov flow), the frames share their colour scales.

- **log₁₀ |residual|**: how far the generated fields are from satisfying the equation, point by point, by the solver's
  own discretisation; blank where no equation is asked for. Data from the solver reach the *data floor*, which is
  rounding, or the error of the time steps; nothing is gained below it. A series of frames has one residual for all.
- **solver's ...**: what a real solver gives for the *generated* input: a coefficient or a source, the first row of a
  field in time, or the first of the frames.
- **Forward-solve error**: the distance between the generated solution and that one, relative to its size (of frames:
  relative to their change since the first). If the residual falls while this rises, the gain is not real.
- **Conservation**: how many samples obey a conservation law of the equation to within 5 %. The law is named below the
  equation.
- **CoCoGen** and **DiffusionPDE** train nothing. They move the baseline's own estimates down the residual while it is
  sampled: CoCoGen the estimate itself, eight times in each of the last steps; DiffusionPDE along the gradient through
  the network, so that such an evaluation counts as two.
- **Time**: what each method takes alone. Those that share their first steps compute them once here, so all of them
  together take less than the sum. Everything is computed in float32.
- **Evaluations** of the network, one sample's. Going back through it counts as another one (DiffusionPDE).

Zooming into one panel zooms them all; a double click brings the whole field back.
"""
WAITING = '<div class="progress"><span class="bar"></span><span>Waiting for the sampler …</span></div>'
STOPPED = '<div class="caption">Stopped. The figure shows the previous result.</div>'
SWEEP_STOPPED = '<div class="caption">Stopped. The curves show what had been computed by then.</div>'
FAILED = "the computation failed; the server's log says why"


def as_sentence(error: Exception | str) -> str:
    text = str(error)
    start = text.split(maxsplit=1)[:1]
    start = text[:1].upper() if start and start[0].isalpha() else text[:1]  # names of files and parameters stay
    return start + text[1:] + ("" if text.endswith(".") else ".")


def problem(error: Exception | str) -> str:
    return f'<p class="problem" role="alert">{escape(as_sentence(error))}</p>'


def preview(grid: Grid) -> str:
    """The grid as small pictures in the places where the figure has its panels."""
    tracks = f"grid-template-columns: {LEFT - GAP // 2}px repeat({len(grid.columns)}, minmax(0, 1fr))"
    gaps = f"gap: {CAPTION}px {GAP}px; padding: 0 {RIGHT + GAP // 2}px {CAPTION + TICKS + BARS}px 0"
    cells = ['<span class="corner"></span>'] + [f'<div class="title">{escape(c.title)}</div>' for c in grid.columns]
    for r, name in enumerate(grid.rows):
        cells.append(f'<div class="name">{escape(name)}</div>')
        for c in grid.columns:
            url = picture_url(c.maps[r], c.colours, c.low, c.high)
            under = f"<figcaption>{escape(c.captions[r])}</figcaption>" if c.captions[r] else ""
            cells.append(
                f'<figure><img src="{url}" alt="{escape(name)}, {escape(c.title)}, while sampling">{under}</figure>'
            )
    return f'<div class="preview" style="{tracks}; {gaps}">{"".join(cells)}</div>'


def waiting(ahead: int, what: str = "the sampler") -> str:
    """Where one stands in the line: `ahead` others are served first."""
    others = "one other is" if ahead == 1 else f"{ahead} others are"
    return WAITING.replace("the sampler …", f"{what}: {others} ahead of you")


def bar(text: str, done: float, total: float) -> str:
    share = 100 * min(1.0, done / total) if total else 0
    shown = f'<span class="bar"><i style="width: {share:.0f}%"></i></span><span>{escape(text)}</span>'
    return f'<div class="progress">{shown}</div>'


def progress(event: Preview, methods: int, seconds: float) -> str:
    each = " per method" if methods > 1 else ""
    text = f"step {event.step} of {event.steps} · noise level {event.sigma:.3g} · {event.nfe} network evaluations{each}"
    return bar(f"{text} · {seconds:.1f} s", event.step, event.steps)


def describe(settings: Settings, steps: bool = True, benchmark: PDE | None = None) -> str:
    """Settings in words, with or without the step count; `benchmark` is what their models solve, if that is known."""
    samples = "1 sample" if settings.n == 1 else f"{settings.n} samples"
    title = (benchmark or get_pde(settings.pde)).full_title
    parts = [title, *([f"{settings.steps} steps"] if steps else []), samples]
    parts += [f"seed {settings.seed}"]
    parts += [f"{settings.resolution} × {settings.resolution}"] if settings.resolution else []
    parts += [f"{k} {v:g}" for k in ("sigma_min", "sigma_max", "rho") if (v := getattr(settings, k)) is not None]
    return " · ".join(parts)


def grid_width(grid: Grid, stage: str) -> str:
    """A style that keeps the stage of that id wide enough for the grid, which then scrolls on a narrow page."""
    columns = len(grid.columns)
    narrowest = LEFT + RIGHT + columns * (NARROWEST * panel_size(columns) + GAP)
    return f"<style>#{stage} {{ --grid-width: {narrowest:.0f}px }}</style>"


def caption(comparison: Comparison, precomputed: bool) -> str:
    width = grid_width(grids(shown_sample(comparison, 0))[0], "stage")
    tag, kind = ('<span class="tag">Precomputed</span>', "") if precomputed else ("", " computed")
    tail = ". Press Run to compute your own." if precomputed else ". Every row starts from the same noise."
    told = describe(comparison.settings, benchmark=comparison.benchmark)
    told = escape(f"{told} · {comparison.results[0].row['precision']}")
    return f'{width}<div class="caption{kind}">{tag}<strong>{told}</strong>{tail}</div>'


def sentence(comparison: Comparison) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
    return "".join(f"<p>{escape(text)}</p>" for text in comparison.verdicts) + (f"<ul>{notes}</ul>" if notes else "")


def ratio(value: float, reference: str | None) -> str:
    """A figure over that of the method called `reference`, marked as better (lower) or worse; None for its own."""
    if reference is None:
        return "<small>reference</small>"
    kind = "" if abs(value - 1) <= SAME else "better" if value < 1 else "worse"
    mark = {"": "", "better": "▼ ", "worse": "▲ "}[kind]
    return f'<small class="{kind}">{mark}{value:.2f} × {escape(reference)}</small>'


def table(comparison: Comparison) -> str:
    """Figures per method, ratios to the first one, and the floor that solver data reaches."""
    pde = get_pde(comparison.settings.pde)
    walls, floors = has_walls(pde), comparison.floors
    edge = lambda value: "rounding" if value <= floors["boundary_rounding"] else f"{value:.2g}"  # noqa: E731
    heads = [
        ("Method", ""),
        ("Residual RMS", "lower is better"),
        ("Forward-solve error", "median, lower is better"),
        ("Boundary RMS", "lower is better" if walls else "nothing to violate"),
        ("Conservation", f"{pde.conservation_short}, within 5 %" if pde.conservation_short else "no law"),
        ("Evaluations", "per sample"),
        ("Time", f"{comparison.settings.n} × {comparison.settings.steps} steps, alone"),
    ]
    first = comparison.results[0].method
    reference = "the baseline" if first == "base" else method_title(first)
    lines = ["".join(f'<th scope="col">{a}<small>{b}</small></th>' for a, b in heads)]
    for row in (r.row for r in comparison.results):
        against = None if row["method"] == first else reference
        cells = [
            f"{row['residual_rms']:.3g}{ratio(row['residual_ratio'], against)}",
            f"{percent(row['solve_error_median'])}{ratio(row['solve_error_ratio'], against)}",
            edge(row["boundary_rms"]) if walls else "periodic",
            "–" if row["conservation_rate"] is None else f"{row['conservation_rate'] * row['n']:.0f} of {row['n']}",
            f"{row['nfe']}",
            f"{row['seconds']:.2g} s",
        ]
        name = f'<th scope="row">{escape(method_title(row["method"]))}</th>'
        lines.append(name + "".join(f"<td>{cell}</td>" for cell in cells))
    at_edge = edge(floors["boundary_rms"]) if walls else "periodic"
    data = [f"{floors['residual_rms']:.1g}", percent(floors["solve_error_median"]), at_edge]
    floor = '<th scope="row">Solver data (floor)</th>' + "".join(f"<td>{x}</td>" for x in data) + "<td></td>" * 3
    body = "".join(f"<tr>{line}</tr>" for line in lines[1:]) + f'<tr class="floor">{floor}</tr>'
    return f'<div class="figures"><table><thead><tr>{lines[0]}</tr></thead><tbody>{body}</tbody></table></div>'
