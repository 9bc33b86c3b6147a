"""Pieces of HTML of the Train tab: the head of a run, its figures, samples before and after, the estimate."""

from html import escape

from ...common.text import duration, percent
from ...evaluation.figures import SAME
from ...methods.presets import Estimate
from ...methods.registry import METHODS
from ...pdes.stencils import rms
from ...training.config import BEST_BY
from ..drawing.html import as_sentence, grid_width, preview, problem, waiting
from ..drawing.panels import Grid, Shown, log_residual, residual_range, still
from .history import History, precise
from .run import TrainingRun

TUNED = ", ".join(f"by {method.title} {method.does}" for method in METHODS.values())
NOTHING = f"""<div class="empty"><b>No run yet.</b> Choose how long it may take and press Start. A copy of the model is
tuned: {TUNED}.
You see reward or loss, residual and forward-solve error from the first update on, and samples from
the same noise before and after. What it learns is yours: compare it with the others, download it, go on from it.
</div>"""
MEASURING = '<div class="caption">Measuring this machine, to fit the run to the time …</div>'
PILLS = {
    "waiting": ("Waiting", ""),
    "drawing": ("Preparing", "going"),
    "tuning": ("Training", "going"),
    "stopped": ("Stopped", ""),
    "complete": ("Complete", "done"),
    "diverged": ("Diverged", "bad"),
    "failed": ("Failed", "bad"),
}


def change(value: float | None, start: float | None) -> str:
    """A figure against what it was before the run, marked as better (lower) or worse."""
    if value is None or not start:
        return "<small>&nbsp;</small>"
    ratio = value / start
    kind = "" if abs(ratio - 1) <= SAME / 10 else "better" if ratio < 1 else "worse"
    mark = {"": "as before", "better": f"▼ {percent(1 - ratio)}", "worse": f"▲ {percent(ratio - 1)}"}[kind]
    return f'<small class="{kind}">{mark}</small>'


def tile(name: str, value: str, under: str = "<small>&nbsp;</small>") -> str:
    return f'<div class="tile"><span>{name}</span><strong>{value}</strong>{under}</div>'


def tiles(history: History, going: bool) -> str:
    held = history.held
    start, last = (held[0], held[-1]) if held else (None, None)
    speed = history.speed() if going else None
    left = (history.updates - history.done) / speed if speed else None
    last_drift = history.steps[-1].drift if history.done else None
    at = f"<small>checked at {last.update}</small>" if last else "<small>&nbsp;</small>"
    figures = []
    for name, key, write in (
        ("Residual, held-out", "validation_residual", "{:.3g}".format),
        ("Forward-solve error", "validation_solve_error", precise),
    ):
        value = getattr(last, key) if last else None
        under = (
            change(value, getattr(start, key))
            if last and last.update
            else "<small>before tuning</small>"
            if last
            else ""
        )
        figures.append(tile(name, "–" if value is None else write(value), under))
    return '<div class="tiles">{}</div>'.format(
        "".join(
            [
                tile("Update", f"{history.done} <small style='display:inline'>of {history.updates}</small>", at),
                tile("Speed", f"{speed:.2g}" if speed else "–", "<small>updates a second</small>"),
                tile("Time left", duration(left) if left is not None else "–"),
                *figures,
                tile("Weight drift", "–" if last_drift is None else f"{last_drift:.2g}", "<small>RMS change</small>"),
            ]
        )
    )


def head(run: TrainingRun, ahead: int = 0) -> str:
    """Name, state, progress and figures of a run; `ahead` others are served before it."""
    history, (state, look) = run.history, PILLS[run.phase]
    state = state if run.wanted or not run.going else "Stopping"
    drawing = run.phase == "drawing"
    share = run.drawn[0] / max(1, run.drawn[1]) if drawing else history.done / max(1, history.updates)
    doing = {
        "drawing": f"drawing what it learns from: {run.drawn[0]} of {run.drawn[1]}" if run.drawn[1] else "",
        "stopped": f"after {history.done} updates; Resume goes on from here"
        if history.done
        else "before its first update",
        "complete": f"after {history.done} updates",
    }.get(run.phase, "")
    words = " · ".join(filter(None, [escape(run.words), doing]))
    line = (
        f'<div class="run-head"><b>{escape(run.name)}</b><i class="pill {look}">{state}</i><span>{words}</span></div>'
    )
    if run.phase == "waiting" and ahead:
        line += waiting(ahead, "a free place among the trainers")
    bar = f'<div class="run-bar"><i style="width:{100 * share:.1f}%"></i></div>'
    told = problem(run.message) if run.message else ""
    if history.warning:
        told += problem(f"update {history.held[-1].update}: {history.warning}: the gain is not real")
    return f"{line}{bar}{tiles(history, run.going)}{told}"


def verdict(run: TrainingRun) -> str:
    """What came of a run, in words; empty while there is nothing to say."""
    held = run.history.held
    if run.going or len(held) < 2:
        return ""
    start, last, best = held[0], held[-1], run.best
    errors = [precise(step.validation_solve_error) for step in (start, last)]
    text = (
        f"On held-out noise the residual went from {start.validation_residual:.3g} to {last.validation_residual:.3g}, "
        f"the forward-solve error from {errors[0]} to {errors[1]}"
    )
    figure = BEST_BY[run.config.best_by]
    if best.update == run.history.done:
        kept = "the last state is the best of those checked"
    else:
        kept = f"the best state checked, of update {best.update}, is kept too"
    if getattr(best, run.config.best_by) >= getattr(start, run.config.best_by):
        kept += "; none is better than the model before the run"
    return f'<div class="caption"><strong>{escape(as_sentence(text))}</strong> By {figure}, {kept}.</div>'


def samples_grid(run: TrainingRun) -> Grid | None:
    """The sample on show before and after, on scales that do not move during the run; None while there is none."""
    pde, pair = run.base.info.benchmark, run.samples
    if not pair:
        return None
    sample = min(run.sample, len(pair[0]) - 1)
    fields = [part[sample : sample + 1] for part in pair]
    if not all(field.isfinite().all() for field in fields):
        return None
    residuals, solutions = [pde.residual(f) for f in fields], [pde.solve(f) for f in fields]
    errors = [pde.solve_error(f, solution).item() for f, solution in zip(fields, solutions, strict=True)]
    captions = {
        "residual": [f"RMS {rms(pde.interior(residual)).item():.3g}" for residual in residuals],
        "difference": [f"solve error {percent(error)}" for error in errors],
    }
    now, residuals, solutions = ([part[0].numpy() for part in parts] for parts in (fields, residuals, solutions))
    scale = residual_range([log_residual(residuals[0])])
    return still(Shown(pde, ["Before", "After"], now, residuals, solutions, captions, scale))


def sketch(grid: Grid) -> str:
    """The samples as small pictures, while the run goes on."""
    return grid_width(grid, "train-stage") + preview(grid)


def estimate(found: Estimate, config) -> str:
    """What a run takes on this machine, in words."""
    parts = [f"pool {duration(found.pool_seconds)}", f"updates {duration(found.update_seconds)}"]
    parts.append(f"checks {duration(found.validation_seconds)}")
    size = f"{found.peak_bytes / 1e6:.0f} MB"
    return (
        f'<div class="estimate">About <strong>{duration(found.seconds)}</strong> on this machine '
        f"({', '.join(parts)}) and <strong>{size}</strong> of memory. Trains "
        f"<strong>{found.trainable_parameters:,}</strong> parameters for {config.updates} updates.</div>"
    )
