"""The Check tab: fields of one's own, measured like the samples of a model."""

import gradio as gr

from ...common.checks import InputError
from ...evaluation.own_fields import FieldCheck
from ..drawing import html
from ..serving.lanes import queued
from ..serving.server import Server
from ..wiring import COMPUTE, QUIET
from . import results
from .controls import CheckControls
from .measuring import measuring

INTRO = """Fields of your own, from a simulation or a network, measured as this app measures its models: against the
equation, against what a solver gives for their inputs, and against held-out data. Files are .npz, .npy, .mat or .h5."""
GONE = "This result is no longer in memory: press Check to measure the file again."


class CheckTab:
    """Builds the tab inside an open `gr.Tab` context and holds its components."""

    def __init__(self, server: Server, pde: str):
        self.lanes = server.lanes
        with gr.Row(elem_id="check"):
            with gr.Column(scale=1, elem_id="check-controls"):
                self.controls = CheckControls(server.lanes, pde)
            with gr.Column(scale=4, elem_id="check-results"):
                self.build_results()
        self.connect()

    def build_results(self) -> None:
        self.status = gr.HTML(f'<div class="caption">{INTRO}</div>', elem_id="check-status")
        self.sentence = gr.HTML(elem_id="check-sentence")
        self.figures = gr.HTML(elem_id="check-figures")
        with gr.Row(visible=False, elem_id="check-above") as self.above:
            look = {"filterable": False, "min_width": 120}
            self.sample = gr.Dropdown([], label="Sample on show", elem_id="check-sample", **look)
            self.view = gr.Dropdown([], label="Show", elem_id="check-view", visible=False, **look)
        with gr.Column(elem_id=results.STAGE, elem_classes="stage"):
            self.width = gr.HTML()
            self.figure = gr.Plot(show_label=False, elem_classes="plot-grid", container=False)
        with gr.Accordion("Sample by sample", open=True, visible=False, elem_id="check-samples") as self.each:
            self.by_sample = gr.HTML()
        self.result = gr.State(None, time_to_live=3600)  # a FieldCheck

    def connect(self) -> None:
        self.controls.connect(self.status)
        picture = [self.figure, self.width]
        shown = [self.status, self.sentence, self.figures, self.above, self.sample, self.view, *picture]
        shown += [self.each, self.by_sample, self.result]
        self.controls.run.click(self.on_check, self.controls.inputs, shown, **QUIET, **COMPUTE)
        chosen = [self.result, self.sample, self.view]
        gr.on([self.sample.input, self.view.input], self.on_sample, chosen, picture, queue=False, **QUIET)

    def on_check(self, *values):
        place = self.lanes.sampling.join()
        try:
            yield {self.status: html.WAITING}
            file, *asked = self.controls.read(values)
            work = measuring(file, *asked)
            for ahead in queued(place):
                yield {self.status: html.waiting(ahead)}
            for event in self.lanes.steps(work):
                done = isinstance(event, FieldCheck)
                yield self.show(event, file.name) if done else {self.status: html.bar(event, 0, 1)}
        except InputError as error:
            yield {self.status: html.problem(error)}
        except Exception:
            yield {self.status: html.problem(html.FAILED)}
            raise
        finally:
            place.leave()

    def show(self, found: FieldCheck, name: str) -> dict:
        numbers = [(str(one["sample"]), i) for i, one in enumerate(found.samples)]
        views = results.views(found.pde)
        first = len(found.pde.channels) - 1 if views else 0  # of frames, the last one
        figure, grid = results.picture(found, 0, first)
        return {
            self.status: "",
            self.sentence: results.verdict(found),
            self.figures: results.figures(found, name),
            self.above: gr.update(visible=True),
            self.sample: gr.update(choices=numbers, value=0),
            self.view: gr.update(choices=views, value=first if views else None, visible=bool(views)),
            self.figure: figure,
            self.width: results.width(grid),
            self.each: gr.update(visible=True),
            self.by_sample: results.by_sample(found),
            self.result: found,
        }

    def on_sample(self, found: FieldCheck | None, sample: int | None, view: int | None):
        if found is None:
            gr.Warning(GONE)
            return gr.skip(), gr.skip()
        figure, grid = results.picture(found, sample or 0, view or 0)
        return figure, results.width(grid)
