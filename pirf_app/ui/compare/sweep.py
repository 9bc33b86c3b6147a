"""How good the models are at other step counts: the benchmark's figures at first, and on demand those of the settings
on the page."""

from collections.abc import Sequence
from functools import cache
from html import escape

import gradio as gr

from ...common.checks import InputError
from ...common.text import percent
from ...evaluation.comparison import SWEEP_STEPS, Comparison, check_sweep
from ...evaluation.report import REPORT, read_report
from ...evaluation.verdicts import method_title
from ...models.library import rank
from ...pdes import get_pde
from ..drawing import html
from ..drawing.charts import HOVER, Axis, Chart, Curve, Scale, draw, key
from ..drawing.number_fields import read_number
from ..serving import gpu
from ..serving.server import Server
from .tickets import Tickets

MARKS = (5, 10, 20, 40, 80)
PANELS = (("Residual RMS", "residual_rms", "{:.3g}".format), ("Forward-solve error", "solve_error_median", percent))


@cache
def benchmark() -> dict:
    """The report of the bundled models; without rows where it cannot be read."""
    try:
        return read_report(REPORT)
    except InputError:
        return {"rows": [], "floors": {}}


def colours(methods: Sequence[str]) -> dict[str, int]:
    """By method, which of the five colours it has: the baseline always the same one."""
    others = [m for m in methods if m != "base"]
    return {m: 1 if m == "base" else (0, 2, 3, 4)[others.index(m) % 4] for m in methods}


def charts(rows: Sequence[dict], floors: dict[str, float]) -> str:
    """Figures over the step count, a curve for each method of `rows`, and what solver data scores."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    steps = sorted({row["steps"] for row in rows})
    if not steps:
        return ""
    scale = Scale(steps[0], max(steps[-1], steps[0] + 1), True)
    axis = Axis("sampler steps", "steps:", scale, [s for s in MARKS if steps[0] <= s <= steps[-1]] or steps)
    panels = []
    for title, name, write in PANELS:
        curves = []
        for method, run in colours(methods).items():
            own = [row for row in rows if row["method"] == method]
            x, y = [row["steps"] for row in own], [row[name] for row in own]
            curves.append(Curve(method_title(method), x, y, "held", run))
        floor = [("data floor", floors[name])] if floors.get(name) else []
        panels.append(draw(Chart(title, "", curves, floor, log=True, write=write), axis))
    legend = "".join(key(f"held run{run}", method_title(method)) for method, run in colours(methods).items())
    return f'<div class="keys">{legend}</div><div class="charts">{"".join(panels)}</div>'


def precomputed(pde: str) -> str:
    """The benchmark's figures of `pde`, on its default grid."""
    report, problem = benchmark(), get_pde(pde)
    wanted = (pde, problem.default_resolution)
    rows = [row for row in report["rows"] if (row["pde"], row["resolution"]) == wanted]
    rows.sort(key=lambda row: rank(row["method"]))
    if not rows:
        return ""
    counts = sorted({row["n"] for row in rows})
    samples = f"{counts[-1]} samples" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} samples"
    told = f"<strong>{problem.title}</strong> · benchmark of the bundled models · {samples}"
    tag = '<span class="tag">Precomputed</span>'
    return f'<div class="caption">{tag}{told}</div>{charts(rows, report["floors"].get(pde, {}))}'


def computed(latest: Comparison, rows: Sequence[dict]) -> str:
    """The figures of a sweep so far; of its settings everything but the step count is shown."""
    name = escape(html.describe(latest.settings, False, latest.benchmark))
    return f'<div class="caption"><strong>{name}</strong></div>{charts(rows, latest.floors)}'


class SweepPanel:
    """Builds the panel inside an open `gr.Blocks` context. Its runs have the tickets of the tab's own: whoever starts
    one ends the other."""

    def __init__(self, server: Server, tickets: Tickets, pde: str):
        self.server, self.tickets = server, tickets
        with gr.Accordion("At other step counts", open=True, elem_id="sweep"):
            self.curves = gr.HTML(precomputed(pde), js_on_load=HOVER, elem_id="sweep-curves")
            with gr.Row(elem_id="sweep-row"):
                self.start = gr.Button("Compute for these settings", size="sm", elem_id="sweep-run")
                self.stop = gr.Button("Stop", size="sm", elem_id="sweep-stop")
                self.status = gr.HTML(elem_id="sweep-status")
        tickets.add("sweep", self.status, html.SWEEP_STOPPED)

    def connect(self, settings: Sequence[gr.components.Component]) -> None:
        """`settings` in the order of `check_settings`: what the page shows, step counts left out."""
        run, outputs = self.on_run, [self.curves, self.status]
        self.tickets.connect("sweep", [self.start.click], self.stop.click, run, settings, outputs)

    def on_run(self, pde, resolution, methods, n, seed, sigma_min, sigma_max, rho, ticket, request: gr.Request):
        tickets, lanes, rows = self.tickets, self.server.lanes, []
        library, place = self.server.visitors.library(request.session_hash), lanes.sampling.join()
        yield {self.status: gr.skip()}  # a generator that ends without a word empties every output
        own = {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}
        own = {name: read_number(entered) for name, entered in own.items()} | {"resolution": resolution}
        try:
            asked = check_sweep(library, pde, methods, SWEEP_STEPS, n, seed, **own)
            yield from tickets.waiting(ticket, place)
            if not tickets.wanted(ticket):
                return
            done, total = 0, sum(settings.steps * len(settings.methods) for settings in asked)
            for settings in asked:
                for event in lanes.steps(lanes.do(lambda s=settings: gpu.run(library, s))):
                    if not tickets.wanted(ticket):
                        yield tickets.said(ticket)
                        return
                    if isinstance(event, Comparison):
                        rows += [result.row for result in event.results]
                        yield {self.curves: computed(event, rows)}
                    else:
                        done += 1
                        text = f"{settings.steps} steps: step {event.step}"
                        yield {self.status: html.bar(text, done, total)}
            yield {self.status: ""}
        except InputError as error:
            yield {self.status: html.problem(error)}
        except Exception:
            yield {self.status: html.problem(html.FAILED)}
            raise
        finally:
            place.leave()
            tickets.end(ticket)
