"""Controls for a sample that is a series of frames: which one the figure shows, and whether it plays.

All frames are in the figure (`plotly_grid`), so the browser changes from one to the next by itself, through the Plotly
that Gradio's own plot component puts on the page.
"""

import gradio as gr

from ...pdes import PDE, get_pde, pde_names
from ..drawing.panels import view_number
from ..wiring import PRIVATE

# A new figure is mounted some time after its value has changed, and may have been made for another choice.
SHOW = """(frame, what) => {
    window.pirfView = [frame, what];
    const show = () => {
        const plot = document.querySelector("#grid .js-plotly-plot");
        const meta = plot && plot.layout && plot.layout.meta;
        if (!meta || meta.views.length < 2) return;
        const [frame, what] = window.pirfView, count = meta.views.length / 2;
        const number = Math.min(frame, count) - 1 + (what === "change" ? count : 0);
        if (number === meta.active) return;
        meta.active = number;
        window.Plotly.update(plot, { visible: meta.views[number].visible }, meta.views[number].layout);
    };
    [0, 300, 1500].forEach((wait) => setTimeout(show, wait));
}"""
PLAY = """() => {
    if (window.pirfTimer) {
        clearInterval(window.pirfTimer);
        window.pirfTimer = null;
        return "Play";
    }
    window.pirfTimer = setInterval(() => {
        const bar = document.querySelector("#frame input[type=range]");
        if (!bar) return;
        bar.value = Number(bar.value) % Number(bar.max) + 1;
        bar.dispatchEvent(new Event("input", { bubbles: true }));
    }, 800);
    return "Pause";
}"""


class Player:
    """A row of controls, hidden while the figure has no frames. Built inside an open `gr.Blocks` context."""

    def __init__(self, pde: PDE | None):
        last = max((len(p.channels) for p in map(get_pde, pde_names()) if p.view == "frames"), default=2)
        with gr.Row(elem_id="player", visible=pde is not None and pde.view == "frames") as self.row:
            self.play = gr.Button("Play", size="sm", elem_id="play")
            self.frame = gr.Slider(
                1, last, value=last, step=1, label="Frame", elem_id="frame", container=False, buttons=[]
            )
            choices = [("frame", "field"), ("change since frame 1", "change")]
            self.what = gr.Radio(choices, value="field", label="Frames show", elem_id="what", container=False)
        self.controls = [self.frame, self.what]

    def connect(self, figure: gr.Plot) -> None:
        gr.on([self.frame.change, self.what.change, figure.change], None, self.controls, None, js=SHOW, **PRIVATE)
        self.play.click(None, None, self.play, js=PLAY, **PRIVATE)

    def updates(self, pde: PDE) -> dict:
        """What a new result of `pde` changes here."""
        frames = pde.view == "frames"
        changes = {self.row: gr.update(visible=frames)}
        return changes | {self.frame: gr.update(maximum=len(pde.channels))} if frames else changes

    @staticmethod
    def number(pde: PDE, frame: int, what: str) -> int:
        """The view (a place in `panels.grids`) that the controls ask for."""
        return view_number(pde, int(frame or 1) - 1, what == "change")
