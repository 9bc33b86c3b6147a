"""The controls of the Compare tab: what to compare, and which choices there are."""

from collections.abc import Sequence
from dataclasses import replace

import gradio as gr

from ...common.checks import InputError
from ...evaluation import comparison as cmp
from ...evaluation.verdicts import OWN, method_title
from ...models.library import AnyLibrary, grid, grids
from ...pdes import get_pde
from ..drawing import axes
from ..drawing.number_fields import number_field, written
from ..serving.offered import equations, least_steps, offered, recommended
from ..serving.server import Server
from ..wiring import PRIVATE, QUIET
from . import links
from .sweep import MARKS, precomputed

DICE = "() => String(Math.floor(Math.random() * 2 ** 31))"
RAISE = "(least, steps) => Math.max(least, steps)"


class CompareControls:
    """Builds the choice of equation where it is made and the rest with `build`, inside an open `gr.Blocks` context.

    `first` are the settings of the comparison that the page opens on, if there is one."""

    def __init__(self, server: Server, first: cmp.Settings | None):
        self.visitors, self.library = server.visitors, server.library
        self.models = offered(self.library)
        pde = next(iter(self.models))
        self.default = first or cmp.Settings(pde, tuple(cmp.usual(self.models[pde])), 10, 4, 0)
        self.first_pde = self.default.pde if self.default.pde in self.models else pde
        look = {"label": "Equation", "elem_id": "pde", "container": False}
        self.pde = gr.Radio(equations(self.library), value=self.first_pde, **look)

    def build(self) -> None:
        now, pde = self.default, self.first_pde
        with gr.Group():
            self.equation = gr.Markdown(axes.equation(get_pde(pde)), elem_id="equation")
        with gr.Group():
            self.resolution = gr.Radio(**self.grid_choices(pde), label="Resolution", elem_id="resolution")
            self.methods = gr.CheckboxGroup(**self.method_choices(pde), label="Methods", elem_id="compare-methods")
            least, high = least_steps(self.library, pde, self.methods.value), cmp.STEPS_RANGE[1]
            first = max(least, now.steps)
            self.steps = gr.Slider(least, high, value=first, step=1, label="Sampler steps", elem_id="steps")
            self.least = gr.Number(least, visible=False)
            with gr.Row(elem_id="marks"):
                self.marks = [gr.Button(str(mark), size="sm") for mark in MARKS]
            low, high = cmp.SAMPLES_RANGE
            self.n = gr.Slider(low, high, value=now.n, step=1, label="Samples", elem_id="samples")
            with gr.Row(elem_id="seed-row"):
                self.seed = gr.Textbox(
                    str(now.seed), label="Seed of the noise", max_lines=1, elem_id="seed", min_width=80
                )
                self.dice = gr.Button("⚄", elem_id="dice", size="sm")
        with gr.Accordion("Noise schedule", open=False, elem_id="schedule") as self.panel:
            self.schedule = [number_field(label=k, **self.schedule_hint(pde, k)) for k in links.NUMBERS]
        with gr.Row(elem_id="run-row"):
            self.run = gr.Button("Run", variant="primary", elem_id="run", scale=3)
            self.stop = gr.Button("Stop", variant="secondary", elem_id="stop", scale=1)

    def connect(self, benchmark: gr.HTML) -> None:
        """`benchmark` shows what the bundled models score on the equation."""
        self.benchmark = benchmark
        for mark, button in zip(MARKS, self.marks, strict=True):
            button.click(None, None, self.steps, js=f"() => {mark}", **PRIVATE)
        self.dice.click(None, None, self.seed, js=DICE, **PRIVATE)
        depends = [self.equation, self.resolution, self.methods, *self.schedule, benchmark]
        self.pde.input(self.on_pde, self.pde, depends, queue=False, **PRIVATE)
        grid = [self.pde, self.methods, self.resolution]
        self.resolution.input(self.on_grid, grid, [self.methods, *self.schedule], queue=False, **PRIVATE)
        # Whatever changed them: the visitor, another tab, a model that came or went. The page raises what is below by
        # itself: were it sent here, it would be refused as too small.
        chosen = [component.change for component in grid]
        bound = gr.on(
            chosen, self.on_models, grid, [self.steps, self.least], queue=False, trigger_mode="always_last", **QUIET
        )
        bound.then(None, [self.least, self.steps], self.steps, js=RAISE, **PRIVATE)

    def grid_choices(self, pde: str, chosen: int | None = None, library: AnyLibrary | None = None) -> dict:
        """The resolutions that there are models of, where there is a choice; None stands for the only one."""
        library = library or self.library
        try:
            known = grids(library, pde)
        except InputError:  # told at the top of the page
            known = []
        if len(known) < 2:
            return {"choices": [], "value": None, "visible": False}
        value = chosen if chosen in known else grid(library, pde)
        return {"choices": [(f"{size} × {size}", size) for size in known], "value": value, "visible": True}

    def method_choices(
        self,
        pde: str,
        chosen: Sequence[str] | None = None,
        library: AnyLibrary | None = None,
        resolution: int | None = None,
    ) -> dict:
        """What can be chosen for `pde`, and what is: unless told otherwise the usual ones of those that there were when
        the server started, and what the visitor has made or added last. So, too, where there is none of `chosen`."""
        try:
            found = cmp.available(library or self.library, pde, resolution)
        except InputError:  # told at the top of the page
            found = []
        wanted = cmp.usual(self.models.get(pde) or found) if chosen is None else chosen
        value = [m for m in found if m in wanted]
        if chosen is None or (wanted and not value):
            value = value or [m for m in found if not m.startswith(OWN)][:2]
            newest = [m for m in found if m.startswith(OWN)][-2:]  # a run leaves two: its last state and the best
            value += [m for m in newest if m not in value]
        return {"choices": [(method_title(m), m) for m in found], "value": value}

    def schedule_hint(
        self, pde: str, name: str, resolution: int | None = None, library: AnyLibrary | None = None
    ) -> dict:
        """The checkpoint's own value, shown where nothing has been entered."""
        library = library or self.library
        try:
            size = grid(library, pde, resolution)
            own = getattr(recommended(library, pde, library.methods(pde, size)[0], size), name)
        except (InputError, LookupError):
            return {"placeholder": "the model's own"}
        return {"placeholder": f"{own:g}, the model's own"}

    def on_pde(self, pde: str, request: gr.Request):
        library = self.visitors.library(request.session_hash)
        hints = [gr.update(value="", **self.schedule_hint(pde, k, library=library)) for k in links.NUMBERS]
        sizes, choices = self.grid_choices(pde, library=library), self.method_choices(pde, library=library)
        return axes.equation(get_pde(pde)), gr.update(**sizes), gr.update(**choices), *hints, precomputed(pde)

    def on_grid(self, pde: str, methods: list[str], resolution: int | None, request: gr.Request):
        library = self.visitors.library(request.session_hash)
        hints = [gr.update(**self.schedule_hint(pde, k, resolution, library)) for k in links.NUMBERS]
        return gr.update(**self.method_choices(pde, methods, library, resolution)), *hints

    def on_models(self, pde: str, methods: list[str], resolution: int | None, request: gr.Request):
        """The least number of steps that the chosen models give samples in."""
        least = least_steps(self.visitors.library(request.session_hash), pde, methods, resolution)
        return gr.update(minimum=least), least

    def on_return(self, pde: str, methods: list[str], resolution: int | None, request: gr.Request):
        """Resolutions and methods again: some may have come or gone while another tab was open."""
        library = self.visitors.library(request.session_hash)
        sizes = self.grid_choices(pde, resolution, library)
        return gr.update(**sizes), gr.update(**self.method_choices(pde, methods, library, sizes["value"]))

    @property
    def restored(self) -> list:
        """What a link sets, in the order of `from_link`."""
        steps = [self.steps, self.least]
        settings = [self.resolution, self.methods, *steps, self.n, self.seed, *self.schedule, self.panel]
        return [self.pde, self.equation, self.benchmark, *settings]

    @staticmethod
    def with_enough_steps(asked: cmp.Settings, library: AnyLibrary) -> cmp.Settings:
        """`asked`, with no fewer steps than its models need."""
        least = least_steps(library, asked.pde, asked.methods, asked.resolution)
        return replace(asked, steps=max(least, asked.steps))

    def from_link(self, asked: cmp.Settings, library: AnyLibrary) -> list:
        """The updates for `restored`; `asked` has enough steps."""
        least = least_steps(library, asked.pde, asked.methods, asked.resolution)
        return [
            asked.pde,
            axes.equation(get_pde(asked.pde)),
            precomputed(asked.pde),
            gr.update(**self.grid_choices(asked.pde, asked.resolution, library)),
            gr.update(**self.method_choices(asked.pde, asked.methods, library, asked.resolution)),
            gr.update(value=asked.steps, minimum=least),
            least,
            asked.n,
            str(asked.seed),
            *(
                gr.update(
                    value=written(getattr(asked, k)), **self.schedule_hint(asked.pde, k, asked.resolution, library)
                )
                for k in links.NUMBERS
            ),
            gr.Accordion(open=any(getattr(asked, k) is not None for k in links.NUMBERS)),
        ]
