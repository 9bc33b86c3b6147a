"""The controls of the Train tab."""

import json
import re
import time
from typing import Any

import gradio as gr

from ...common.checks import InputError
from ...methods.presets import trainable_parameters
from ...methods.registry import DEFAULT, METHODS, SETTINGS
from ...models.checkpoint import Checkpoint
from ...models.library import AnyLibrary
from ...pdes import get_pde
from ...training.config import LAYERS, TuningConfig
from ..drawing import html
from ..drawing.number_fields import number_field, read_number, written
from ..serving.offered import begin_choices, beginning
from .recipes import PRESET_TITLES
from .run import TrainingRun

DEFAULT_PRESET = "2m"
FIRST = ("updates", "last_steps", "trainable")  # always in sight; the others are in an accordion, numbers two a row:
ORDER = ("batch", "pool", "learning_rate", "warmup", "validation", "validate_every", "clip", "ema", "drift")
OFFERED = {name: known for name, known in SETTINGS.items() if known.label}
NUMBERS = [name for name, known in OFFERED.items() if known.is_number]


def rows() -> list[list[str]]:
    """The numbers of the accordion, as they stand side by side: those of all methods first, in `ORDER` as far as that
    goes. Those of a few methods take turns where only one of them is seen."""
    place = {name: at for at, name in enumerate(ORDER)}
    numbers = sorted(set(NUMBERS) - set(FIRST), key=lambda name: (place.get(name, len(place)), NUMBERS.index(name)))
    shared = [name for name in numbers if all(name in kind.settings for kind in METHODS.values())]
    found, seen = [shared[at : at + 2] for at in range(0, len(shared), 2)], set(shared)
    half = len(shared) % 2
    beside: list[str] = []
    for kind in METHODS.values():
        own = [name for name in numbers if name in kind.settings and name not in seen]
        seen |= set(own)
        beside += own[:half]
        found += [own[at : at + 2] for at in range(half, len(own), 2)]
    return [[*row, *beside] if len(row) == 1 and row[0] in shared else row for row in found]


def count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number / 1e3:.3g} k"


class TrainControls:
    """Builds the controls inside an open `gr.Blocks` context. `fields` are those of the recipe, by name."""

    def __init__(self, library: AnyLibrary, models: dict[str, list[str]], pde: str):
        with gr.Group():
            titles = [(get_pde(name).title, name) for name in models]
            self.pde = gr.Dropdown(titles, value=pde, label="Equation", elem_id="train-pde", filterable=False)
            look = {"label": "Start from", "filterable": False, "elem_id": "train-begin"}
            self.begin = gr.Dropdown(**begin_choices(library, pde), **look)
            titles = [(m.title, name) for name, m in METHODS.items()]
            self.method = gr.Dropdown(titles, value=DEFAULT, label="Method", filterable=False, elem_id="train-method")
        with gr.Group():
            titles = [(title, name) for name, title in PRESET_TITLES.items()]
            self.preset = gr.Radio(titles, value=DEFAULT_PRESET, label="Time to spend", elem_id="presets")
            with gr.Row(elem_classes="pair"):
                self.fields = {name: self.field(name) for name in FIRST if name in NUMBERS}
            sizes = self.trainable_choices(self.start(library, pde))
            self.fields["trainable"] = self.field("trainable", **sizes)
            self.name = gr.Textbox(
                "", label="Name of the result", placeholder="chosen for you", max_lines=1, elem_id="train-name"
            )
        self.estimate = gr.HTML(elem_id="estimate")
        self.fitted = gr.Textbox("", visible=False)

    def build_advanced(self) -> None:
        """Further controls, in an accordion of their own."""
        several = [name for name, known in OFFERED.items() if known.kind is tuple]
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.fields |= {name: self.field(name) for name in several}
            for row in rows():
                with gr.Row(elem_classes="pair"):
                    self.fields |= {name: self.field(name) for name in row}
            self.fields |= {name: self.field(name) for name in OFFERED if name not in self.fields}

    @staticmethod
    def field(name: str, **look) -> gr.Textbox | gr.Dropdown:
        """The control of a setting, with the default of the first method that has it."""
        known = OFFERED[name]
        value = next(getattr(m.config, name) for m in METHODS.values() if name in m.settings)
        look = {"label": known.label, "elem_id": f"train-{name}", "visible": name in METHODS[DEFAULT].settings} | look
        if known.choices:
            choices = {"choices": [(title, choice) for choice, title in known.choices.items()], "value": value}
            return gr.Dropdown(**choices | {"filterable": False} | look)
        if known.is_number:
            return number_field(value, min_width=80, **look)
        return gr.Textbox(known.written(value), max_lines=1, **look)

    @property
    def inputs(self) -> list:
        """What `read` takes the values of."""
        return [self.pde, self.begin, self.method, self.preset, *self.fields.values()]

    def read(self, values: tuple) -> tuple[str, str, str, str | None, dict[str, Any]]:
        """PDE, starting checkpoint, method, preset and the fields of the recipe, by name."""
        pde, begin, method, preset, *rest = values
        entered = dict(zip(self.fields, rest, strict=True))
        return pde, begin, method, preset, entered | {name: read_number(entered[name]) for name in NUMBERS}

    def filled(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        """`fields`, if the method misses none of its numbers. Raises InputError."""
        for name in METHODS[method].settings if method in METHODS else ():
            if name in NUMBERS and fields[name] is None:
                raise InputError(f"{self.fields[name].label} is empty: enter a number")
        return fields

    def said(self, error: InputError) -> str:
        """What is wrong, with the settings called what they are on the page."""
        name = lambda match: self.fields[match[0]].label if match[0] in self.fields else match[0]  # noqa: E731
        return html.problem(re.sub(r"^[a-z]+\b|[a-z]+(_[a-z]+)+", name, str(error)))

    def fit(self, preset: str, config: TuningConfig, estimate: str) -> dict:
        """An update that has the page show the recipe of a preset and what it takes (`FITTED`)."""
        values = [self.written(config).get(name) for name in self.fields]
        # The time makes each of them another value: only that the page takes for a change.
        told = {"preset": preset, "values": [estimate, *values], "at": time.monotonic()}
        return {self.fitted: json.dumps(told)}

    def written(self, config: TuningConfig) -> dict[str, Any]:
        """The fields that a recipe has, as the page shows them."""
        found = {name: getattr(config, name) for name in self.fields if hasattr(config, name)}
        numbers = {name: written(value) for name, value in found.items() if name in NUMBERS}
        return {name: OFFERED[name].written(value) for name, value in found.items()} | numbers

    def of_run(self, library: AnyLibrary, run: TrainingRun) -> dict:
        """Updates that show what a run was started with."""
        values, changes = self.written(run.config), self.for_method(run.method)
        changes |= {self.fields[k]: gr.update(value=v, visible=True) for k, v in values.items()}
        changes[self.fields["trainable"]] = gr.update(**self.trainable_choices(run.base, run.config.trainable))
        begin = begin_choices(library, run.pde, run.base.info.method)
        return changes | {
            self.pde: run.pde,
            self.begin: gr.update(**begin),
            self.method: run.method,
            self.preset: None,
        }

    def for_method(self, method: str) -> dict:
        """Updates that show the settings of a method, at its defaults where they are not those of the others."""
        kind, changes = METHODS[method], {}
        for name, component in self.fields.items():
            known = {getattr(m.config, name) for m in METHODS.values() if name in m.settings}
            changes[component] = {"visible": name in kind.settings}
            if name in kind.settings and len(known) > 1:
                changes[component] |= {"value": self.written(kind.config())[name]}
        return {component: gr.update(**change) for component, change in changes.items()}

    @staticmethod
    def start(library: AnyLibrary, pde: str, begin: str | None = "base") -> Checkpoint | None:
        """The model that a run would start from; None where there is none, which is told elsewhere."""
        try:
            return beginning(library, pde, begin)
        except (LookupError, ValueError):
            return None

    @staticmethod
    def trainable_choices(base: Checkpoint | None, chosen: str = TuningConfig.trainable) -> dict:
        """The suffixes of the network, with how many parameters each of them has."""
        sizes = trainable_parameters(base) if base else {}
        titles = {k: f"{title} ({count(sizes[k])})" if k in sizes else title for k, title in LAYERS.items()}
        return {"choices": [(title, name) for name, title in titles.items()], "value": chosen}
