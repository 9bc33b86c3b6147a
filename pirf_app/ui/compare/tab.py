"""The Compare tab: models on one benchmark from the same noise, side by side."""

import tempfile
import time
from pathlib import Path

import gradio as gr

from ...common.checks import InputError
from ...evaluation import comparison as cmp
from ...evaluation.exports import FIRST_VIEW
from ...pdes import get_pde
from ..drawing import html
from ..drawing.figures import plotly_grid
from ..drawing.number_fields import read_number
from ..drawing.panels import grids, shown_sample
from ..serving import gpu
from ..serving.server import Server
from ..wiring import PRIVATE
from . import links
from .controls import CompareControls
from .downloads import export, first_view
from .player import Player
from .preview import Sketch
from .sweep import SweepPanel
from .tickets import Tickets

# The address bar stays as it is: pictures in the figure refer to it, and would vanish if it changed.
SHOW_LINK = """(query) => window.location.origin + window.location.pathname + "?" + query"""


def figure_of(comparison: cmp.Comparison, sample: int, frame: int, what: str):
    """The interactive figure of a sample (from 0), on the frame that the player's controls ask for."""
    view = Player.number(get_pde(comparison.settings.pde), frame, what)
    return plotly_grid(grids(shown_sample(comparison, sample)), view)


class CompareTab:
    """Builds the tab inside an open `gr.Blocks` context and holds its components."""

    def __init__(self, server: Server, first_view_path: Path = FIRST_VIEW):
        self.server = server
        self.first = first_view(first_view_path)
        self.first_files: list[str] | None = None
        self.tickets = Tickets()
        self.controls = CompareControls(server, self.first.settings if self.first else None)
        with gr.Row(elem_id="compare"):
            with gr.Column(scale=1, elem_id="controls"):
                self.controls.build()
            with gr.Column(scale=4, elem_id="results"):
                self.build_results()
        self.connect()

    def build_results(self) -> None:
        first = self.first
        gone = "The precomputed first view is missing here: press Run to compute a comparison."
        with gr.Row(elem_id="above"):
            self.status = gr.HTML(elem_id="status")
            shown = html.caption(first, True) if first else f'<div class="caption">{gone}</div>'
            self.caption = gr.HTML(shown, elem_id="caption")
            count = first.settings.n if first else 1
            choices = self.sample_choices(count, 0)
            self.sample = gr.Radio(**choices, label="Sample on show", elem_id="sample", container=False)
        self.player = Player(get_pde(first.settings.pde) if first else None)
        with gr.Column(elem_id="stage", elem_classes="stage"):
            self.preview = gr.HTML(elem_id="preview", elem_classes="live-grid")
            figure = figure_of(first, 0, self.player.frame.value, self.player.what.value) if first else None
            self.figure = gr.Plot(figure, show_label=False, elem_id="grid", elem_classes="plot-grid", container=False)
        self.sentence = gr.HTML(html.sentence(first) if first else "", elem_id="sentence")
        self.table = gr.HTML(html.table(first) if first else "", elem_id="figures")
        with gr.Row(elem_id="downloads"):
            self.files = [gr.DownloadButton(f"Download .{k}", size="sm") for k in ("npz", "png", "csv")]
        self.link = gr.Textbox(label="Link to these settings", buttons=["copy"], interactive=False, elem_id="link")
        self.tickets.add("run", self.status, html.STOPPED, self.preview)
        self.sweep = SweepPanel(self.server, self.tickets, self.controls.first_pde)
        with gr.Accordion("How to read this", open=False):
            gr.Markdown(html.GUIDE)
        self.query = gr.Textbox(links.to_query(self.controls.default), visible=False)
        self.shown = gr.Textbox("", visible=False)  # the ticket of the result on the page; empty for the first view
        self.result = gr.State(None, time_to_live=6 * 3600)  # (ticket, comparison)

    def connect(self) -> None:
        controls = self.controls
        controls.connect(self.sweep.curves)
        what, how = [controls.pde, controls.resolution, controls.methods], [controls.n, controls.seed]
        self.sweep.connect([*what, *how, *controls.schedule])
        settings = [*what, controls.steps, *how, *controls.schedule]
        outputs = [self.status, self.preview, self.figure, self.caption, self.sample, self.sentence, self.table]
        view = self.player.controls
        running = self.tickets.connect(
            "run",
            [controls.run.click, controls.seed.submit],
            controls.stop.click,
            self.on_run,
            [*settings, self.sample, *view],
            [*outputs, self.player.row, self.player.frame, self.result, self.shown, self.query],
        )
        shown = running.success(None, self.query, self.link, js=SHOW_LINK, **PRIVATE)
        shown.then(
            self.on_files, [self.result, self.shown], self.files, show_progress="hidden", concurrency_limit=2, **PRIVATE
        )
        chosen = [self.result, self.shown, self.sample, *view]
        self.sample.input(self.on_sample, chosen, self.figure, queue=False, **PRIVATE)
        self.player.connect(self.figure)

    @staticmethod
    def sample_choices(count: int, chosen: int) -> dict:
        return {"choices": [(str(k + 1), k) for k in range(count)], "value": min(chosen, count - 1)}

    def on_run(
        self,
        pde,
        resolution,
        methods,
        steps,
        n,
        seed,
        sigma_min,
        sigma_max,
        rho,
        sample,
        frame,
        what,
        ticket,
        request: gr.Request,
    ):
        lanes, tickets = self.server.lanes, self.tickets
        library, place = self.server.visitors.library(request.session_hash), lanes.sampling.join()
        yield {self.status: gr.skip()}  # a generator that ends without a word empties every output
        schedule = [read_number(entered) for entered in (sigma_min, sigma_max, rho)]
        try:
            settings = cmp.check_settings(library, pde, methods, steps, n, seed, *schedule, resolution)
            yield from tickets.waiting(ticket, place)
            if not tickets.wanted(ticket):
                return
            start = time.perf_counter()
            sketch = Sketch(settings, sample or 0, Player.number(get_pde(settings.pde), frame, what))
            for event in lanes.steps(lanes.do(lambda: gpu.run(library, settings))):
                if not tickets.wanted(ticket):
                    yield tickets.said(ticket)
                    return
                if isinstance(event, cmp.Comparison):
                    yield self.show(event, ticket, sketch.sample, frame, what)
                elif sketch.add(event):
                    bar = html.progress(event, len(settings.methods), time.perf_counter() - start)
                    yield {self.status: bar, self.preview: sketch.html()}
        except InputError as error:
            gr.Warning(html.as_sentence(error))
            yield {self.status: html.problem(error), self.preview: ""}
        except Exception:
            yield {self.status: html.problem(html.FAILED), self.preview: ""}
            raise
        finally:
            place.leave()
            tickets.end(ticket)

    def show(self, result: cmp.Comparison, ticket: str, sample: int, frame: int, what: str) -> dict:
        return self.player.updates(get_pde(result.settings.pde)) | {
            self.status: "",
            self.preview: "",
            self.figure: figure_of(result, sample, frame, what),
            self.caption: html.caption(result, precomputed=False),
            self.sample: gr.update(**self.sample_choices(result.settings.n, sample)),
            self.sentence: html.sentence(result),
            self.table: html.table(result),
            self.result: (ticket, result),
            self.shown: ticket,
            self.query: links.to_query(result.settings),
        }

    def on_show(self, result: tuple | None, shown: str) -> cmp.Comparison | None:
        """The comparison on the page: `result` if it is the one shown, the first view if nothing has been computed."""
        if not shown:
            return self.first
        return result[1] if result and result[0] == shown else None

    def on_sample(self, result: tuple | None, shown: str, sample: int, frame: int, what: str):
        comparison = self.on_show(result, shown)
        if comparison is None:
            gr.Warning("This result is no longer in memory: press Run to compute it again.")
            return gr.skip()
        return figure_of(comparison, min(sample, comparison.settings.n - 1), frame, what)

    def on_files(self, result: tuple | None, shown: str):
        comparison = self.on_show(result, shown)
        if comparison is None:
            yield [gr.skip()] * len(self.files)
        elif comparison is self.first:
            self.first_files = self.first_files or export(comparison, Path(tempfile.mkdtemp(prefix="pirf-")))
            yield self.first_files
        else:
            with tempfile.TemporaryDirectory(prefix="pirf-") as folder:  # the server copies them when they are yielded
                yield export(comparison, Path(folder))

    @property
    def restored(self) -> list:
        """What a link sets, in the order of `on_load`."""
        return [self.status, *self.controls.restored, self.query]

    def on_load(self, request: gr.Request):
        """What the page's own link asks for."""
        query = dict(request.query_params)
        if not set(query) & {"pde", "methods", "steps", "n", "seed", "resolution", *links.NUMBERS}:
            return [gr.skip()] * len(self.restored)
        try:
            library = self.server.visitors.library(request.session_hash)
            asked = links.from_query(library, query, self.controls.default)
        except InputError as error:
            return [html.problem(f"this link cannot be used: {error}")] + [gr.skip()] * (len(self.restored) - 1)
        settings = self.controls.with_enough_steps(asked, library)
        note = f"Settings from the link: {html.describe(settings)}. Press Run to compute them."
        if settings.steps > asked.steps:
            note += f" It asks for {asked.steps} steps, in which these models give no samples."
        told = f'<div class="caption">{note}</div>'
        return [told, *self.controls.from_link(settings, library), links.to_query(settings)]
