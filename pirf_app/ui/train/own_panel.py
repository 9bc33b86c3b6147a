"""The visitor's own models: a list to download, remove and upload; and wherever else they can be chosen."""

from collections.abc import Callable

import gradio as gr

from ...common.checks import InputError
from ...models.library import grid
from ..compare.controls import CompareControls
from ..drawing import html
from ..serving.offered import begin_choices, equations
from ..serving.own_models import OwnModels, take_upload
from ..serving.server import Server
from ..wiring import QUIET, SETUP

NO_OVERLAY = "(none)"


class OwnPanel:
    """Builds the panel inside an open `gr.Blocks` context."""

    def __init__(self, server: Server):
        self.visitors, self.lanes = server.visitors, server.lanes
        with gr.Accordion("Your models", open=True, elem_id="own"):
            self.told = gr.HTML(elem_id="own-told")
            self.model = gr.Dropdown([], label="Model", elem_id="own-model", filterable=False, visible=False)
            with gr.Row(elem_classes="buttons", visible=False) as self.row:
                self.take = gr.DownloadButton("Download", size="sm", elem_id="own-download")
                self.remove = gr.Button("Remove", size="sm", elem_id="own-remove")
            self.upload = gr.UploadButton(
                "Upload .safetensors", file_types=[".safetensors"], size="sm", elem_id="own-upload"
            )

    def connect(self, pde: gr.Dropdown, begin: gr.Dropdown, overlay: gr.Dropdown, compare: CompareControls) -> None:
        """`begin` offers models of `pde` to start from, `overlay` those that have curves; `compare`
        are the controls of the Compare tab."""
        self.begin, self.overlay, self.compare = begin, overlay, compare
        self.pde = pde
        self.known = [self.model, overlay, pde, begin, compare.pde, compare.methods, compare.resolution]
        self.lists = [self.model, self.row, self.take, overlay, pde, begin]
        self.lists += [compare.pde, compare.resolution, compare.methods]
        self.refresh(self.upload.upload(self.on_upload, self.upload, [self.told, self.model], **QUIET, **SETUP).then)
        self.refresh(self.remove.click(self.on_remove, self.model, [self.told, self.model], queue=False, **QUIET).then)
        self.model.input(self.on_model, self.model, self.take, queue=False, **QUIET)

    def refresh(self, when: Callable) -> None:
        """Has the lists made anew at an event: `when` is the method of a component, or of another event, for it."""
        when(self.on_list, self.known, self.lists, queue=False, **QUIET)

    @staticmethod
    def choices(models: OwnModels, chosen: str | None = None) -> dict:
        names = [model.name for model in models.mine()]
        return {"choices": names, "value": chosen if chosen in names else names[-1] if names else None}

    def on_upload(self, file: str, request: gr.Request):
        models = self.visitors.of(request.session_hash).models
        try:
            model = take_upload(file, models, self.lanes)
        except InputError as error:
            return {self.told: html.problem(error)}
        problem, size = model.info.benchmark, model.info.resolution
        ready = "" if size == grid(models, problem.name) else f": choose {size} × {size} under Resolution there"
        told = f"{problem.full_title} at {size}x{size}, checked and ready in the Compare tab{ready}"
        text = f'<div class="caption">{model.name}: {told}.</div>'
        return {self.told: text, self.model: gr.update(**self.choices(models, model.name))}

    def on_remove(self, name: str, request: gr.Request):
        models = self.visitors.of(request.session_hash).models
        try:
            models.remove(name)
        except InputError as error:
            return {self.told: html.problem(error)}
        return {self.told: "", self.model: gr.update(**self.choices(models))}

    def on_model(self, name: str, request: gr.Request):
        try:
            return str(self.visitors.of(request.session_hash).models.own(name).path)
        except InputError:
            return None

    def on_list(
        self,
        own: str,
        overlay: str,
        pde: str,
        begin: str,
        compared: str,
        methods: list,
        resolution: int | None,
        request: gr.Request,
    ):
        """Names the visitor's models wherever they can be chosen; what is new is chosen in the Compare tab."""
        visitor = self.visitors.known(request.session_hash)
        if visitor is None:
            return dict.fromkeys(self.lists, gr.skip())
        models = visitor.models
        mine = models.mine()
        run = visitor.run
        others = [m for m in mine if m.history is not None and run and m.history is not run.history]
        laid = [model.name for model in others if model.info.pde == run.pde]
        fresh = [model for model in mine if model.method not in visitor.listed]
        new = [model.method for model in fresh]
        visitor.listed = {model.method for model in mine}
        made = run.models.get("last") if run else None
        chosen = self.choices(models, made.name if made in fresh else fresh[-1].name if fresh else own)
        path = str(models.own(chosen["value"]).path) if mine else None
        visitor.overlay = overlay if overlay in laid else NO_OVERLAY
        sizes, compared_methods = self.compare.on_return(compared, [*methods, *new], resolution, request)
        return {
            self.model: gr.update(**chosen, visible=bool(mine)),
            self.row: gr.update(visible=bool(mine)),
            self.take: gr.update(value=path),
            self.overlay: gr.update(choices=[NO_OVERLAY, *laid], value=visitor.overlay, visible=bool(laid)),
            self.pde: gr.update(choices=equations(models)),
            self.begin: gr.update(**begin_choices(models, pde, begin)),
            self.compare.pde: gr.update(choices=equations(models)),
            self.compare.resolution: sizes,
            self.compare.methods: compared_methods,
        }
