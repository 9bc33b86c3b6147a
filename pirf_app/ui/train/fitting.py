"""What happens in the controls of the Train tab before a run: choices, presets, estimates."""

from typing import Any

import gradio as gr

from ...common.checks import InputError
from ...models.checkpoint import Checkpoint
from ..serving.offered import begin_choices, beginning
from ..serving.server import Server
from ..wiring import FITTED, NO_PRESET, PRIVATE, QUIET, SETUP
from . import run_html
from .controls import TrainControls
from .recipes import Recipes


class Setup:
    """Built inside an open `gr.Blocks` context. `found` is what a recipe changes: itself, and what it takes."""

    def __init__(self, server: Server, recipes: Recipes, controls: TrainControls):
        self.visitors, self.recipes, self.controls = server.visitors, recipes, controls
        self.found = [controls.fitted, controls.estimate]
        self.opened = gr.Textbox("", visible=False)

    def connect(self) -> None:
        controls, inputs, found = self.controls, self.controls.inputs, self.found
        fields = [*controls.fields.values()]
        shown = [controls.estimate, *fields]
        controls.fitted.change(None, [controls.fitted, controls.preset, *shown], shown, js=FITTED, **PRIVATE)
        latest = {"trigger_mode": "always_last"} | QUIET | SETUP
        depends = [controls.begin, controls.fields["trainable"]]
        pde = controls.pde.input(self.on_pde, controls.pde, depends, queue=False, **QUIET)
        begin = controls.begin.input(
            self.on_begin, [controls.pde, *depends], controls.fields["trainable"], queue=False, **QUIET
        )
        method = controls.method.input(controls.for_method, controls.method, fields, queue=False, **QUIET)
        for chosen in (pde, begin, method):
            chosen.then(self.on_preset, inputs, found, **QUIET, **SETUP)
        controls.preset.input(self.on_preset, inputs, found, **latest)
        entered = [component.input for component in fields]
        gr.on(entered, None, None, controls.preset, js=NO_PRESET, **PRIVATE)
        gr.on(entered, self.on_estimate, inputs, controls.estimate, **latest)

    def open(self, tab: gr.Tab) -> None:
        """The first visit of the tab fits the default preset to this machine, if there is no run to come back to."""
        inputs, outputs = [self.opened, *self.controls.inputs], [*self.found, self.opened]
        tab.select(self.on_open, inputs, outputs, **QUIET, **SETUP)

    def on_open(self, request: gr.Request, opened: str, *values):
        if opened:
            return {self.opened: opened}
        visitor = self.visitors.known(request.session_hash)
        if visitor is not None and visitor.run is not None:  # of the page before: its recipe is what the page shows
            run = visitor.run
            return {self.controls.estimate: self.told(run.base, run.method, run.config), self.opened: "yes"}
        return self.on_preset(request, *values) | {self.opened: "yes"}

    def on_pde(self, pde: str, request: gr.Request):
        library, controls = self.visitors.library(request.session_hash), self.controls
        choices = begin_choices(library, pde)
        sizes = controls.trainable_choices(controls.start(library, pde, choices["value"]))
        return gr.update(**choices), gr.update(**sizes)

    def on_begin(self, pde: str, begin: str, trainable: str, request: gr.Request):
        """How many parameters the layers have of the model that is chosen to start from."""
        base = self.controls.start(self.visitors.library(request.session_hash), pde, begin)
        return gr.update(**self.controls.trainable_choices(base, trainable))

    def on_preset(self, request: gr.Request, *values):
        """Finds the recipe for the time that is chosen; without one, only the estimate is made."""
        pde, begin, method, preset, fields = self.controls.read(values)
        if not preset:
            return self.on_estimate(request, *values)
        try:
            base = beginning(self.visitors.library(request.session_hash), pde, begin)
            return self.fitted(preset, base, method, self.recipes.preset(preset, base, method, fields))
        except InputError as error:
            return {self.controls.estimate: self.controls.said(error)}

    def fitted(self, preset: str, base: Checkpoint, method: str, config: Any) -> dict:
        """A preset's recipe for the controls, and what it takes."""
        return self.controls.fit(preset, config, self.told(base, method, config))

    def told(self, base: Checkpoint, method: str, config: Any) -> str:
        """What a run of `config` takes, in words."""
        return run_html.estimate(self.recipes.estimate(base, method, config), config)

    def on_estimate(self, request: gr.Request, *values):
        """What the recipe in the controls takes."""
        pde, begin, method, _, fields = self.controls.read(values)
        try:
            base = beginning(self.visitors.library(request.session_hash), pde, begin)
            config = self.recipes.recipe(base, method, self.controls.filled(method, fields))
            text = run_html.estimate(self.recipes.check(base, method, config), config)
        except InputError as error:
            text = self.controls.said(error)
        return {self.controls.estimate: text}
