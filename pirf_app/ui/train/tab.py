"""The Train tab: fine-tune a model here, watch it, and take the result along."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict

import gradio as gr
from gradio.components.plot import PlotData

from ...common.checks import InputError
from ..compare.controls import CompareControls
from ..drawing import html
from ..drawing.charts import HOVER
from ..drawing.figures import plotly_grid
from ..serving.lanes import queued
from ..serving.offered import beginning
from ..serving.server import Server
from ..serving.visitors import Visitor
from ..wiring import BEFORE, INTO_VIEW, PRIVATE, QUIET, REMEMBER, SETUP, STOPPING
from . import run_html
from .controls import TrainControls
from .fitting import Setup
from .history import History, charts
from .own_panel import NO_OVERLAY, OwnPanel
from .prepare import prepare
from .recipes import JUST_NOW, Recipes
from .run import FAILED, PREVIEW_SAMPLES, TrainingRun

log = logging.getLogger(__name__)

TRAIN = {"concurrency_id": "train", "concurrency_limit": 8}
SHOW_SECONDS = 0.5


class TrainTab:
    """Builds the tab inside an open `gr.Blocks` context and holds its components."""

    def __init__(self, server: Server, compare: CompareControls):
        self.visitors, self.lanes = server.visitors, server.lanes
        self.recipes = Recipes(server.lanes)
        with gr.Row(elem_id="train"):
            with gr.Column(scale=1, elem_id="train-controls"):
                self.controls = TrainControls(server.library, compare.models, compare.first_pde)
                with gr.Row(elem_classes="buttons"):
                    self.start = gr.Button("Start", variant="primary", elem_id="train-start")
                    self.stop = gr.Button("Stop", interactive=False, elem_id="train-stop")
                with gr.Row(elem_classes="buttons"):
                    self.resume = gr.Button("Resume", interactive=False, elem_id="train-resume")
                    self.reset = gr.Button("Reset", interactive=False, elem_id="train-reset")
                self.controls.build_advanced()
                self.own = OwnPanel(server)
            with gr.Column(scale=4, elem_id="train-live"):
                self.build_live()
        self.session, self.loaded_at = gr.Textbox("", visible=False), gr.Number(0, visible=False)
        self.setup = Setup(server, self.recipes, self.controls)
        self.setup.connect()
        self.own.connect(self.controls.pde, self.controls.begin, self.overlay, compare)
        self.connect()

    def build_live(self) -> None:
        self.head = gr.HTML(run_html.NOTHING, elem_id="train-head")
        self.curves = gr.HTML(elem_id="train-curves", js_on_load=HOVER)
        self.overlay = gr.Dropdown(
            [NO_OVERLAY], value=NO_OVERLAY, label="Lay over", elem_id="overlay", filterable=False, visible=False
        )
        self.verdict = gr.HTML(elem_id="train-verdict")
        with gr.Row(elem_id="train-above", visible=False) as self.above:
            gr.HTML('<div class="caption"><strong>Before and after</strong> from the same held-out noise</div>')
            choices = [(str(k + 1), k) for k in range(PREVIEW_SAMPLES)]
            self.sample = gr.Radio(choices, value=0, label="Sample on show", elem_id="train-sample", container=False)
        with gr.Column(elem_id="train-stage", elem_classes="stage"):
            self.preview = gr.HTML(elem_classes="live-grid")
            self.figure = gr.Plot(show_label=False, elem_classes="plot-grid", container=False)
        with gr.Row(elem_id="train-downloads", visible=False) as self.downloads:
            self.files = [
                gr.DownloadButton(title, size="sm", visible=False)
                for title in ("Download the model", "Download the best state", "Download the state of the run")
            ]
        self.command = gr.Textbox(
            label="The same run elsewhere", buttons=["copy"], interactive=False, visible=False, elem_id="command"
        )

    @property
    def live(self) -> list:
        """What a run changes while it goes on."""
        return [self.head, self.curves, self.verdict, self.above, self.preview, *self.buttons]

    @property
    def buttons(self) -> list:
        return [self.start, self.stop, self.resume, self.reset]

    @property
    def results(self) -> list:
        """What a run changes at its end."""
        return [self.figure, self.downloads, *self.files, self.command]

    @property
    def ended(self) -> list:
        """Everything that a run changes."""
        return [*self.live, *self.results]

    @property
    def nothing(self) -> dict:
        """Takes away what a run has left at its end."""
        hidden = dict.fromkeys([self.downloads, self.command], gr.update(visible=False))
        return hidden | {self.figure: None}

    def connect(self) -> None:
        inputs, started = [*self.controls.inputs, self.controls.name], [*self.ended, *self.setup.found]
        begun = self.start.click(self.on_start, inputs, started, **QUIET, **SETUP)
        resumed = self.resume.click(self.on_resume, None, self.live, queue=False, **QUIET)
        outputs = self.ended
        for before in (begun, resumed):
            # A run may be resumed while the page has not heard the last of it; `claim` lets it work once.
            running = before.then(self.on_run, None, outputs, trigger_mode="multiple", **QUIET, **TRAIN)
            self.own.refresh(running.then)
            before.then(None, None, None, js=INTO_VIEW, **PRIVATE)
        self.own.refresh(begun.then)
        self.stop.click(self.on_stop, None, [self.head, *self.buttons], queue=False, js=STOPPING, **QUIET)
        self.reset.click(self.on_reset, None, outputs, queue=False, **QUIET)
        self.sample.input(self.on_sample, self.sample, [self.preview, self.figure], queue=False, **QUIET)
        self.overlay.input(self.on_overlay, self.overlay, self.curves, queue=False, **QUIET)

    def open(self, page: gr.Blocks, tab: gr.Tab):
        """A page that is loaded again has what it had. At each visit of the tab the models are those of today; the
        first one fits the default preset to this machine. Returns the event of what is there again."""
        back = [*self.ended, *self.controls.inputs, self.session]
        asked = [self.session, self.loaded_at]
        loaded = page.load(self.on_back, asked, back, js=BEFORE, concurrency_limit=16, **QUIET)
        self.own.refresh(loaded.then)
        self.session.change(None, self.session, None, js=REMEMBER, **PRIVATE)
        self.setup.open(tab)
        self.own.refresh(tab.select)
        return loaded

    def on_start(self, request: gr.Request, *values) -> Iterator[dict]:
        """Gets a run ready. A preset is fitted to what this machine does now: when it was chosen, the page itself may
        have kept the machine busy."""
        *values, name = values
        pde, begin, method, preset, fields = self.controls.read(values)
        visitor = self.visitors.of(request.session_hash)
        fitted = {}
        try:
            if preset and not visitor.training:
                yield {self.head: run_html.MEASURING, self.start: gr.update(interactive=False)}
                base = beginning(visitor.models, pde, begin)
                config = self.recipes.preset(preset, base, method, fields, JUST_NOW)
                fields, fitted = asdict(config), self.setup.fitted(preset, base, method, config)
            prepare(visitor, self.recipes, pde, begin, method, self.controls.filled(method, fields), name)
            yield self.now(visitor) | fitted | self.nothing
            return
        except InputError as error:
            said = self.controls.said(error)
        except Exception:
            log.exception("a run was not started")
            said = html.problem(FAILED)
        head = run_html.head(visitor.run) if visitor.run else ""
        yield {self.head: said + head} | self.button_states(visitor.run)

    def on_resume(self, request: gr.Request):
        visitor = self.visitors.of(request.session_hash)
        if visitor.run is None or not visitor.run.again():
            return {self.head: html.problem("there is no stopped run to go on with: press Start for a new one")}
        return self.now(visitor)

    def on_run(self, request: gr.Request) -> Iterator[dict]:
        """The visitor's run, from the line of those who wait to its end."""
        visitor = self.visitors.of(request.session_hash)
        run = visitor.run
        yield {self.head: gr.skip()}  # a generator that ends without a word empties every output
        if run is None or not run.claim():
            return
        shown = 0.0
        try:
            with self.lanes.training.join() as place, run.finishing(self.lanes, visitor.models):
                for ahead in queued(place):
                    if not run.wanted:
                        break
                    yield {self.head: run_html.head(run, ahead)}
                for _ in run.work(self.lanes):
                    if time.monotonic() - shown >= SHOW_SECONDS or not run.wanted:
                        shown = time.monotonic()
                        yield self.now(visitor)
        except InputError as error:
            run.message = str(error)
        except Exception:
            log.exception("a run failed")
            run.message = FAILED
        yield {self.head: run_html.head(run)}
        yield self.now(visitor) | self.end(visitor)

    def now(self, visitor: Visitor) -> dict:
        """The run as it stands."""
        run, over = visitor.run, bool(visitor.run.history.held)
        changes = {
            self.head: run_html.head(run),
            self.verdict: run_html.verdict(run),
            self.above: gr.update(visible=over),
            **self.button_states(run),
        }
        if over:
            changes[self.curves] = charts(run.history, self.laid_over(visitor))
        if run.version != run.shown or not run.going:
            grid = run_html.samples_grid(run) if run.going else None
            changes[self.preview] = run_html.sketch(grid) if grid else ""
            run.shown = run.version
        return changes

    def button_states(self, run: TrainingRun | None) -> dict:
        """What can be done about the run, or without one."""
        going = run is not None and run.going
        can = (not going, going and run.wanted, run is not None and run.resumable, run is not None and not going)
        return {button: gr.update(interactive=now) for button, now in zip(self.buttons, can, strict=True)}

    @staticmethod
    def laid_over(visitor: Visitor) -> History | None:
        """The curves of the run that the visitor has chosen to lay over, if there are any."""
        found = {model.name: model.history for model in visitor.models.mine()}.get(visitor.overlay)
        return None if found is visitor.run.history else found

    @staticmethod
    def picture(run: TrainingRun) -> PlotData | None:
        grid = run_html.samples_grid(run)
        return plotly_grid([grid]) if grid else None

    def end(self, visitor: Visitor) -> dict:
        """What is there once a run has ended: the figure, the files, the command."""
        run = visitor.run
        paths = [run.models[which].path if which in run.models else None for which in ("last", "best")]
        paths.append(run.state if run.resumable else None)
        changes = {
            button: gr.update(value=str(path) if path else None, visible=path is not None)
            for button, path in zip(self.files, paths, strict=True)
        }
        resume = " --resume" if run.resumable else ""
        label = (
            "To go on elsewhere, with the state of the run beside it" if resume else "To make the same run elsewhere"
        )
        changes |= {self.figure: self.picture(run), self.downloads: gr.update(visible=any(paths))}
        return changes | {self.command: gr.update(value=run.command + resume, label=label, visible=True)}

    def on_stop(self, request: gr.Request):
        run = self.visitors.of(request.session_hash).run
        if run is None:
            return self.button_states(None)
        run.stop()
        if run.going:  # it tells the rest itself, and may do so before this answer is there
            return {self.stop: gr.update(interactive=False)}
        return {self.head: run_html.head(run)} | self.button_states(run)

    def on_back(self, before: str, loaded_at: float, request: gr.Request) -> Iterator[dict]:
        """A page that is loaded again has the models and the run of the session that it was `before`."""
        visitor = self.visitors.rejoin(str(before), request.session_hash, loaded_at) if before else None
        yield {self.session: request.session_hash}
        if visitor is None or visitor.run is None:
            return
        yield self.controls.of_run(visitor.models, visitor.run)
        while visitor.run.going:  # it is on its way to a stop since the page was left
            yield self.now(visitor)
            time.sleep(SHOW_SECONDS)
        yield self.now(visitor) | self.end(visitor)

    def on_reset(self, request: gr.Request):
        """Clears the page of the run; the models that it made stay."""
        visitor = self.visitors.of(request.session_hash)
        run = visitor.run
        if run is not None and run.going:
            return self.button_states(run)
        if run is not None:
            run.discard()
        visitor.run = None
        empty = dict.fromkeys([self.curves, self.verdict, self.preview], "") | {self.above: gr.update(visible=False)}
        return self.button_states(None) | empty | self.nothing | {self.head: run_html.NOTHING}

    def on_sample(self, sample: int, request: gr.Request):
        run = self.visitors.of(request.session_hash).run
        if run is None or not run.samples:
            return {self.preview: gr.skip()}
        run.sample = sample
        if run.going:
            return {self.preview: run_html.sketch(run_html.samples_grid(run))}
        return {self.figure: self.picture(run)}

    def on_overlay(self, name: str, request: gr.Request):
        visitor = self.visitors.of(request.session_hash)
        visitor.overlay = name
        return charts(visitor.run.history, self.laid_over(visitor)) if visitor.run else ""
