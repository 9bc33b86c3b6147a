"""The controls of the Check tab: a file, what it holds, and in which scaling."""

from pathlib import Path

import gradio as gr
import numpy as np

from ...common.checks import InputError
from ...evaluation.own_data import chosen_scaling, described, find_keys, read_arrays
from ...models.checkpoint import MAX_BYTES
from ...pdes import PDE, get_pde, pde_names
from ...pdes.parameters import Parameter
from ..drawing import html
from ..drawing.number_fields import number_field, read_number
from ..serving.lanes import Lanes
from ..wiring import PRIVATE, QUIET, SETUP
from .measuring import LIMIT

OWN = "own"
SCALINGS = (
    ("physical units", "physical"),
    ("as published networks see them", "published"),
    ("as this app's networks see them", "normalised"),
    ("another offset and scale", OWN),
)
MOST_CHANNELS = max(len(get_pde(name).channels) for name in pde_names())
PARAMETERS = {p.name: p for name in pde_names() for p in get_pde(name).adjustable}


def asked(parameter: Parameter, visible: bool) -> gr.Dropdown | gr.Textbox:
    """The field for a parameter; empty stands for the one that the grid has."""
    look = {"label": parameter.title, "visible": visible, "elem_id": f"check-{parameter.name}"}
    if parameter.choices:
        first, *others = parameter.choices
        return gr.Dropdown([(first, ""), *((other, other) for other in others)], value="", filterable=False, **look)
    return number_field(placeholder="the grid's own", **look)


class CheckControls:
    """Builds the controls inside an open `gr.Blocks` context."""

    def __init__(self, lanes: Lanes, pde: str):
        self.lanes = lanes
        self.file = gr.File(label=f"Your fields, up to {LIMIT}", height=132, elem_id="check-file")
        with gr.Group():
            titles = [(get_pde(name).title, name) for name in pde_names()]
            self.pde = gr.Dropdown(titles, value=pde, label="Equation", elem_id="check-pde", filterable=False)
            known = {parameter.name for parameter in get_pde(pde).adjustable}
            self.parameters = {name: asked(parameter, name in known) for name, parameter in PARAMETERS.items()}
            self.scaling = gr.Dropdown(
                list(SCALINGS), value="physical", label="Scaling", elem_id="check-scaling", filterable=False
            )
            look = {"max_lines": 1, "visible": False, "placeholder": "a number a channel: 7.5, 0.008"}
            self.offset = gr.Textbox("", label="0 stands for", elem_id="check-offset", **look)
            self.scale = gr.Textbox("", label="1 stands for", elem_id="check-scale", **look)
        with gr.Group(visible=False) as self.naming:
            look = {"filterable": False, "visible": False}
            self.whole = gr.Dropdown([], label="All channels", elem_id="check-whole", **look)
            self.names = [gr.Dropdown([], elem_id=f"check-name-{k}", **look) for k in range(MOST_CHANNELS)]
        self.shapes = gr.State({}, time_to_live=3600)  # of the file's arrays, by name
        self.run = gr.Button("Check", variant="primary", elem_id="check-run")

    @property
    def inputs(self) -> list:
        """What `read` takes the values of."""
        entered = [self.pde, self.scaling, self.offset, self.scale, *self.parameters.values()]
        return [self.file, *entered, self.whole, *self.names]

    def connect(self, status: gr.HTML) -> None:
        self.status = status
        shown = [self.naming, self.whole, *self.names, status]
        told = [self.shapes, *shown]
        gr.on([self.file.upload, self.file.clear], self.on_file, [self.file, self.pde], told, **QUIET, **SETUP)
        depends = [*self.parameters.values(), *shown]
        self.pde.input(self.on_pde, [self.pde, self.shapes], depends, queue=False, **QUIET)
        own = f'(scaling) => Array(2).fill({{ visible: scaling === "{OWN}", __type__: "update" }})'
        self.scaling.change(None, self.scaling, [self.offset, self.scale], js=own, **PRIVATE)

    def read(self, values: tuple) -> tuple[Path, PDE, dict[str, str], str | dict]:
        """File, equation, keys and scaling, as `measuring` takes them. Raises InputError."""
        file, pde, scaling, offset, scale, *rest = values
        numbers, (whole, *names) = rest[: len(PARAMETERS)], rest[len(PARAMETERS) :]
        if not file:
            raise InputError("choose a file with your fields first")
        problem = get_pde(pde)
        given = dict(zip(PARAMETERS, map(read_number, numbers), strict=True))
        known = {parameter.name for parameter in problem.adjustable}
        problem = problem.with_parameters({k: v for k, v in given.items() if v is not None and k in known})
        if scaling == OWN:
            scaling = chosen_scaling("physical", numbers_in("0 stands for", offset), numbers_in("1 stands for", scale))
        keys = {c.name: name for c, name in zip(problem.channels, names, strict=False) if name}
        return Path(file), problem, {"fields": whole} if whole else keys, scaling

    def on_file(self, file: str | None, pde: str):
        """Looks into a file as soon as it is there."""
        try:
            arrays = self.lanes.do(lambda: read_arrays(Path(file), MAX_BYTES)) if file else {}
        except InputError as error:
            return {self.shapes: {}, **self.hidden, self.status: html.problem(error)}
        shapes = {name: array.shape for name, array in arrays.items()}
        return {self.shapes: shapes, **self.naming_for(pde, shapes)}

    def on_pde(self, pde: str, shapes: dict):
        known = {parameter.name for parameter in get_pde(pde).adjustable}
        changes = {part: gr.update(visible=name in known, value="") for name, part in self.parameters.items()}
        return changes | self.naming_for(pde, shapes)

    @property
    def hidden(self) -> dict:
        nothing = gr.update(choices=[], value=None, visible=False)
        return {self.naming: gr.update(visible=False)} | dict.fromkeys([self.whole, *self.names], nothing)

    def naming_for(self, pde: str, shapes: dict) -> dict:
        """Asks which array holds what, where the file does not tell."""
        problem = get_pde(pde)
        # As large as they look, and of no size: how they are called and shaped is all that is asked.
        arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        if not arrays or find_keys(arrays, problem):
            return self.hidden | {self.status: ""}
        choices = [(f"{name} {list(shape)}", name) for name, shape in shapes.items()]
        update = {"choices": choices, "value": None, "visible": True}
        changes = self.hidden | {self.naming: gr.update(visible=True)}
        if len(problem.channels) > 1:
            changes[self.whole] = gr.update(**update)
        for channel, dropdown in zip(problem.channels, self.names, strict=False):
            changes[dropdown] = gr.update(label=channel.title, **update)
        told = f"The file has {described(arrays)}: choose which holds what."
        return changes | {self.status: f'<div class="caption">{told}</div>'}


def numbers_in(label: str, text: str) -> list[float]:
    """Numbers with commas between them. Raises InputError."""
    found = [read_number(part) for part in str(text or "").split(",")]
    if not all(isinstance(number, int | float) for number in found):
        raise InputError(f"{label}: enter a number for each channel, with commas between them")
    return found
