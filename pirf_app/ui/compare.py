"""The Compare tab: models on one benchmark from the same noise, side by side."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import gradio as gr

from .. import comparison as cmp
from .. import resolutions
from ..exports import FIRST_VIEW
from ..library import Library
from ..pdes import get_pde
from ..pdes.base import InputError
from ..wording import method_title
from . import gpu, links, parts, words
from .events import PRIVATE
from .figures import plotly_grid
from .files import export, first_view
from .lane import Lanes, queued
from .models import offered, recommended
from .own import Visitors
from .panels import grids, shown_sample
from .player import Player
from .sketch import Sketch

MARKS = (5, 10, 20, 40, 80)
# Samplers wait in a line that can tell how many are ahead; this limit only keeps gradio's threads from running out.
COMPUTE = {"concurrency_id": "compute", "concurrency_limit": 16}
DICE = "() => String(Math.floor(Math.random() * 2 ** 31))"
FAILED = "the computation failed; the server's log says why"
# The address bar stays as it is: pictures in the figure refer to it, and would vanish if it changed.
SHOW_LINK = """(query) => window.location.origin + window.location.pathname + "?" + query"""


def figure_of(comparison: cmp.Comparison, sample: int, frame: int, what: str):
    """The interactive figure of a sample (from 0), on the frame that the player's controls ask for."""
    view = Player.number(get_pde(comparison.settings.pde), frame, what)
    return plotly_grid(grids(shown_sample(comparison, sample)), view)


class CompareTab:
    """Builds the tab inside an open `gr.Blocks` context and holds its components."""

    def __init__(self, visitors: Visitors, lanes: Lanes, first_view_path: Path = FIRST_VIEW):
        self.library, self.visitors, self.lanes = visitors.shared, visitors, lanes
        library = self.library
        self.models = offered(library)
        self.first = first_view(first_view_path)
        self.first_files: list[str] | None = None
        self.tickets: dict[str, bool] = {}  # of runs that wait or compute; False once the visitor has stopped one
        pde = next(iter(self.models))
        self.default = self.first.settings if self.first else cmp.Settings(pde, tuple(self.models[pde]), 10, 4, 0)
        pde = self.first_pde = self.default.pde if self.default.pde in self.models else pde
        choices = [(get_pde(name).title, name) for name in self.models]
        self.pde = gr.Radio(choices, value=pde, label="Equation", elem_id="pde", container=False)
        with gr.Row(elem_id="compare"):
            with gr.Column(scale=1, elem_id="controls"):
                self.build_controls(pde)
            with gr.Column(scale=4, elem_id="results"):
                self.build_results()
        self.connect()

    def build_controls(self, pde: str) -> None:
        now = self.default
        with gr.Group():
            self.equation = gr.Markdown(words.equation(get_pde(pde)), elem_id="equation")
        with gr.Group():
            self.resolution = gr.Radio(**self.grid_choices(pde), label="Resolution", elem_id="resolution")
            self.methods = gr.CheckboxGroup(**self.method_choices(pde), label="Methods")
            low, high = cmp.STEPS_RANGE
            self.steps = gr.Slider(low, high, value=now.steps, step=1, label="Sampler steps", elem_id="steps")
            with gr.Row(elem_id="marks"):
                self.marks = [gr.Button(str(mark), size="sm") for mark in MARKS]
            low, high = cmp.SAMPLES_RANGE
            self.n = gr.Slider(low, high, value=now.n, step=1, label="Samples", elem_id="samples")
            with gr.Row(elem_id="seed-row"):
                self.seed = gr.Textbox(
                    str(now.seed), label="Seed of the noise", max_lines=1, elem_id="seed", min_width=80
                )
                self.dice = gr.Button("⚄", elem_id="dice", size="sm")
        with gr.Accordion("Noise schedule", open=False):
            self.schedule = [gr.Number(None, label=k, **self.schedule_hint(pde, k)) for k in links.NUMBERS]
        with gr.Row(elem_id="run-row"):
            self.run = gr.Button("Run", variant="primary", elem_id="run", scale=3)
            self.stop = gr.Button("Stop", variant="secondary", elem_id="stop", scale=1)

    def build_results(self) -> None:
        first = self.first
        gone = "The precomputed first view is missing here: press Run to compute a comparison."
        with gr.Row(elem_id="above"):
            self.status = gr.HTML(elem_id="status")
            shown = parts.caption(first, True) if first else f'<div class="caption">{gone}</div>'
            self.caption = gr.HTML(shown, elem_id="caption")
            count = first.settings.n if first else 1
            choices = self.sample_choices(count, 0)
            self.sample = gr.Radio(**choices, label="Sample on show", elem_id="sample", container=False)
        self.player = Player(get_pde(first.settings.pde) if first else None)
        with gr.Column(elem_id="stage", elem_classes="stage"):
            self.preview = gr.HTML(elem_id="preview", elem_classes="live-grid")
            figure = figure_of(first, 0, self.player.frame.value, self.player.what.value) if first else None
            self.figure = gr.Plot(figure, show_label=False, elem_id="grid", elem_classes="plot-grid", container=False)
        self.sentence = gr.HTML(parts.sentence(first) if first else "", elem_id="sentence")
        self.table = gr.HTML(parts.table(first) if first else "", elem_id="figures")
        with gr.Row(elem_id="downloads"):
            self.files = [gr.DownloadButton(f"Download .{k}", size="sm") for k in ("npz", "png", "csv")]
        self.link = gr.Textbox(label="Link to these settings", buttons=["copy"], interactive=False, elem_id="link")
        with gr.Accordion("How to read this", open=False):
            gr.Markdown(parts.GUIDE)
        self.query = gr.Textbox(links.to_query(self.default), visible=False)
        self.ticket = gr.Textbox("", visible=False)
        self.shown = gr.Textbox("", visible=False)  # the ticket of the result on the page; empty for the first view
        self.result = gr.State(None, time_to_live=6 * 3600)  # (ticket, comparison)

    def connect(self) -> None:
        controls = [self.pde, self.resolution, self.methods, self.steps, self.n, self.seed, *self.schedule]
        for mark, button in zip(MARKS, self.marks, strict=True):
            button.click(None, None, self.steps, js=f"() => {mark}", **PRIVATE)
        self.dice.click(None, None, self.seed, js=DICE, **PRIVATE)
        depends = [self.equation, self.resolution, self.methods, *self.schedule]
        self.pde.input(self.on_pde, self.pde, depends, queue=False, **PRIVATE)
        grid = [self.pde, self.methods, self.resolution]
        self.resolution.input(self.on_grid, grid, self.methods, queue=False, **PRIVATE)
        # A ticket per run, not gradio's `cancels`: with that, a preview under way would come in after the cancellation,
        # and the page would wait for the end of a run that is over.
        outputs = [self.status, self.preview, self.figure, self.caption, self.sample, self.sentence, self.table]
        view = self.player.controls
        begun = gr.on(
            [self.run.click, self.seed.submit],
            self.on_begin,
            self.ticket,
            [self.ticket, self.status],
            queue=False,
            show_progress="hidden",
            trigger_mode="multiple",
            **PRIVATE,
        )
        running = begun.then(
            self.on_run,
            [*controls, self.sample, *view, self.ticket],
            [*outputs, self.player.row, self.player.frame, self.result, self.shown, self.query],
            show_progress="hidden",
            trigger_mode="multiple",
            **COMPUTE,
            **PRIVATE,
        )
        shown = running.success(None, self.query, self.link, js=SHOW_LINK, **PRIVATE)
        shown.then(
            self.on_files, [self.result, self.shown], self.files, show_progress="hidden", concurrency_limit=2, **PRIVATE
        )
        self.stop.click(
            self.on_stop,
            self.ticket,
            [self.status, self.preview],
            queue=False,
            show_progress="hidden",
            **PRIVATE,
        )
        chosen = [self.result, self.shown, self.sample, *view]
        self.sample.input(self.on_sample, chosen, self.figure, queue=False, **PRIVATE)
        self.player.connect(self.figure)

    def grid_choices(self, pde: str, chosen: int | None = None, library: Library | None = None) -> dict:
        """The resolutions that there are models of, where there is a choice; None stands for the only one."""
        library = library or self.library
        known = resolutions.grids(library, pde) if self.models.get(pde) else []
        if len(known) < 2:
            return {"choices": [], "value": None, "visible": False}
        value = chosen if chosen in known else resolutions.grid(library, pde)
        return {"choices": [(f"{size} × {size}", size) for size in known], "value": value, "visible": True}

    def method_choices(
        self,
        pde: str,
        chosen: Sequence[str] | None = None,
        library: Library | None = None,
        resolution: int | None = None,
    ) -> dict:
        """What can be chosen for `pde`, and what is: unless told otherwise what there was when the server started."""
        known = self.models.get(pde, [])
        found = cmp.available(library or self.library, pde, resolution) if known else []
        wanted = known if chosen is None else chosen
        value = [m for m in found if m in wanted] or found[: 2 if wanted else 0]
        return {"choices": [(method_title(m), m) for m in found], "value": value}

    def schedule_hint(self, pde: str, name: str) -> dict:
        """The checkpoint's own value, shown where nothing has been entered."""
        try:
            own = getattr(recommended(self.library, pde, self.models[pde][0]), name)
        except (InputError, LookupError):
            return {"placeholder": "the checkpoint's own"}
        return {"placeholder": f"the checkpoint's own: {own:g}"}

    @staticmethod
    def sample_choices(count: int, chosen: int) -> dict:
        return {"choices": [(str(k + 1), k) for k in range(count)], "value": min(chosen, count - 1)}

    def on_pde(self, pde: str, request: gr.Request):
        hints = [gr.update(value=None, **self.schedule_hint(pde, k)) for k in links.NUMBERS]
        library = self.visitors.library(request.session_hash)
        sizes, choices = self.grid_choices(pde, library=library), self.method_choices(pde, library=library)
        return words.equation(get_pde(pde)), gr.update(**sizes), gr.update(**choices), *hints

    def on_grid(self, pde: str, methods: list[str], resolution: int | None, request: gr.Request):
        library = self.visitors.library(request.session_hash)
        return gr.update(**self.method_choices(pde, methods, library, resolution))

    def on_return(self, pde: str, methods: list[str], resolution: int | None, request: gr.Request):
        """Resolutions and methods again: some may have come or gone while another tab was open."""
        sizes = self.grid_choices(pde, resolution, self.visitors.library(request.session_hash))
        return gr.update(**sizes), self.on_grid(pde, methods, sizes["value"], request)

    def on_begin(self, previous: str):
        """Ends the visitor's previous run, if it is still under way, and hands out a ticket for the next."""
        self.tickets.pop(previous, None)
        ticket = uuid4().hex
        self.tickets[ticket] = True
        return ticket, parts.WAITING

    def on_stop(self, ticket: str):
        if ticket not in self.tickets:
            return gr.skip(), gr.skip()
        self.tickets[ticket] = False
        return parts.STOPPED, ""

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
        library, place = self.visitors.library(request.session_hash), self.lanes.sampling.join()
        try:
            settings = cmp.check_settings(library, pde, methods, steps, n, seed, sigma_min, sigma_max, rho, resolution)
            for ahead in queued(place):
                if not self.tickets.get(ticket):
                    return
                yield {self.status: parts.waiting(ahead)}
            if not self.tickets.get(ticket):
                return
            start = time.perf_counter()
            sketch = Sketch(settings, sample or 0, Player.number(get_pde(settings.pde), frame, what))
            for event in self.lanes.steps(self.lanes.do(lambda: gpu.run(library, settings))):
                if not self.tickets.get(ticket):
                    if ticket in self.tickets:  # stopped, not followed by another run
                        yield {self.status: parts.STOPPED, self.preview: ""}
                    return
                if isinstance(event, cmp.Comparison):
                    yield self.show(event, ticket, sketch.sample, frame, what)
                elif sketch.add(event):
                    bar = parts.progress(event, len(settings.methods), time.perf_counter() - start)
                    yield {self.status: bar, self.preview: sketch.html()}
        except InputError as error:
            gr.Warning(parts.as_sentence(error))
            yield {self.status: parts.problem(error), self.preview: ""}
        except Exception:
            yield {self.status: parts.problem(FAILED), self.preview: ""}
            raise
        finally:
            place.leave()
            self.tickets.pop(ticket, None)

    def show(self, result: cmp.Comparison, ticket: str, sample: int, frame: int, what: str) -> dict:
        return self.player.updates(get_pde(result.settings.pde)) | {
            self.status: "",
            self.preview: "",
            self.figure: figure_of(result, sample, frame, what),
            self.caption: parts.caption(result, precomputed=False),
            self.sample: gr.update(**self.sample_choices(result.settings.n, sample)),
            self.sentence: parts.sentence(result),
            self.table: parts.table(result),
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
            return
        if comparison is self.first:
            self.first_files = self.first_files or export(comparison, Path(tempfile.mkdtemp(prefix="pirf-")))
            yield self.first_files
        else:
            with tempfile.TemporaryDirectory(prefix="pirf-") as folder:  # the server copies them when they are yielded
                yield export(comparison, Path(folder))

    def on_load(self, request: gr.Request):
        """What the page's own link asks for, in the order of `restored`."""
        query = dict(request.query_params)
        if not set(query) & {"pde", "methods", "steps", "n", "seed", *links.NUMBERS}:
            return [gr.skip()] * len(self.restored)
        try:
            library = self.visitors.library(request.session_hash)
            asked = links.from_query(library, query, self.default)
        except InputError as error:
            return [parts.problem(f"this link cannot be used: {error}")] + [gr.skip()] * (len(self.restored) - 1)
        note = f"Settings from the link: {parts.describe(asked)}. Press Run to compute them."
        return [
            f'<div class="caption">{note}</div>',
            asked.pde,
            words.equation(get_pde(asked.pde)),
            gr.update(**self.grid_choices(asked.pde, asked.resolution, library)),
            gr.update(**self.method_choices(asked.pde, asked.methods, library, asked.resolution)),
            asked.steps,
            asked.n,
            str(asked.seed),
            *(gr.update(value=getattr(asked, k), **self.schedule_hint(asked.pde, k)) for k in links.NUMBERS),
            links.to_query(asked),
        ]

    @property
    def restored(self) -> list:
        settings = [
            self.pde,
            self.equation,
            self.resolution,
            self.methods,
            self.steps,
            self.n,
            self.seed,
            *self.schedule,
            self.query,
        ]
        return [self.status, *settings]
