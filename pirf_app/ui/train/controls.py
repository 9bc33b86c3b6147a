"""The controls of the Train tab."""

import json
import re
import time
from typing import Any

import gradio as gr

from ...common.checks import InputError
from ...methods.pirf import PirfConfig
from ...methods.presets import trainable_parameters
from ...methods.registry import METHODS
from ...methods.rewards import NORMS
from ...models.checkpoint import Checkpoint
from ...models.library import AnyLibrary
from ...pdes import get_pde
from ...training.config import BEST_BY, TuningConfig
from ..drawing import html
from ..drawing.number_fields import number_field, read_number, written
from ..serving.offered import begin_choices, beginning
from .recipes import PRESET_TITLES
from .run import TrainingRun
from .run_html import FIGURES

SUFFIX_TITLES = {"last": "Last layer", "highres": "High-resolution decoder", "decoder": "Decoder", "all": "All layers"}
NORM_TITLES = {"two-norm": "two norms", "plain": "residual alone"}
DEFAULT_PRESET = "2m"
NUMBERS = {
    "updates": "Updates",
    "last_steps": "K, last steps",
    "batch": "Batch",
    "pool": "Pool",
    "learning_rate": "Learning rate",
    "warmup": "Warm-up",
    "drift": "Drift weight",
    "residual_weight": "Residual weight",
    "anchor": "Anchor weight",
    "error_weight": "Error weight",
    "hold": "Hold weight",
    "clip": "Clip gradient at",
    "ema": "Average",
    "validation": "Held-out",
    "validate_every": "Check every",
}
# Side by side; no method has both of the last two of the third row.
ROWS = ("batch pool", "learning_rate warmup", "drift residual_weight anchor", "error_weight hold", "clip ema")
ROWS += ("validation validate_every",)
FIRST = next(iter(METHODS))


def count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number / 1e3:.3g} k"


class TrainControls:
    """Builds the controls inside an open `gr.Blocks` context. `fields` are those of the recipe, by name."""

    def __init__(self, library: AnyLibrary, models: dict[str, list[str]], pde: str):
        config = PirfConfig()
        with gr.Group():
            titles = [(get_pde(name).title, name) for name in models]
            self.pde = gr.Dropdown(titles, value=pde, label="Equation", elem_id="train-pde", filterable=False)
            look = {"label": "Start from", "filterable": False, "elem_id": "train-begin"}
            self.begin = gr.Dropdown(**begin_choices(library, pde), **look)
            titles = [(m.title, name) for name, m in METHODS.items()]
            self.method = gr.Dropdown(titles, value=FIRST, label="Method", filterable=False, elem_id="train-method")
        with gr.Group():
            titles = [(title, name) for name, title in PRESET_TITLES.items()]
            self.preset = gr.Radio(titles, value=DEFAULT_PRESET, label="Time to spend", elem_id="presets")
            with gr.Row(elem_classes="pair"):
                first = ("updates", "last_steps")
                self.fields = {name: self.number_field(name, getattr(config, name)) for name in first}
            sizes = self.trainable_choices(self.start(library, pde))
            self.fields["trainable"] = gr.Dropdown(
                **sizes, label="Trainable layers", filterable=False, elem_id="train-trainable"
            )
            self.name = gr.Textbox(
                "", label="Name of the result", placeholder="chosen for you", max_lines=1, elem_id="train-name"
            )
        self.estimate = gr.HTML(elem_id="estimate")
        self.fitted = gr.Textbox("", visible=False)

    def build_advanced(self) -> None:
        """Further controls, in an accordion of their own."""
        config = PirfConfig()
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            self.build_recipe(config)

    def build_recipe(self, config: PirfConfig) -> None:
        self.fields["pool_steps"] = gr.Textbox(
            ",".join(map(str, config.pool_steps)),
            label="Sampler steps",
            max_lines=1,
            elem_id="train-pool_steps",
        )
        for row in ROWS:
            with gr.Row(elem_classes="pair"):
                for name in row.split():
                    value = next(getattr(m.config, name) for m in METHODS.values() if name in m.settings)
                    self.fields[name] = self.number_field(name, value, visible=name in METHODS[FIRST].settings)
        titles = [(NORM_TITLES.get(norm, norm), norm) for norm in NORMS]
        self.fields["norm"] = gr.Dropdown(titles, value=config.norm, label="Reward norm", filterable=False)
        titles = [(FIGURES.get(name, name), name) for name in BEST_BY]
        self.fields["best_by"] = gr.Dropdown(titles, value=config.best_by, label="Best state by", filterable=False)
        self.fields["seed"] = gr.Textbox(str(config.seed), label="Seed", max_lines=1, elem_id="train-seed")

    @staticmethod
    def number_field(name: str, value: float, **look) -> gr.Textbox:
        return number_field(value, label=NUMBERS[name], min_width=80, elem_id=f"train-{name}", **look)

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
        write = dict.fromkeys(NUMBERS, written) | {"pool_steps": lambda steps: ",".join(map(str, steps)), "seed": str}
        write["ema"] = lambda share: written(round(share, 4))
        return {k: write.get(k, lambda v: v)(getattr(config, k)) for k in self.fields if hasattr(config, k)}

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
    def trainable_choices(base: Checkpoint | None, chosen: str = PirfConfig().trainable) -> dict:
        """The suffixes of the network, with how many parameters each of them has."""
        sizes = trainable_parameters(base) if base else {}
        titles = {k: f"{title} ({count(sizes[k])})" if k in sizes else title for k, title in SUFFIX_TITLES.items()}
        return {"choices": [(title, name) for name, title in titles.items()], "value": chosen}
