"""What a page says when the server has been restarted under it: what it had there is gone, and everything else works.

A server has a number of its own. A page asks for it when something is done there. Where it is not that of the server it
came from, and the page had something there, it loads itself again, as gradio does once a lost connection is back: a new
server knows neither the models nor what they let one choose. The page that comes then says what was lost.
"""

from collections.abc import Callable

import gradio as gr

from ..drawing import html
from ..wiring import PRIVATE, QUIET

WATCH = """() => {
    const { root, api_prefix, app_id } = window.gradio_config, store = "pirf-before", pause = 2000;
    const marks = {
        comparison: "#status .progress, #sweep-status .progress, #caption .computed",
        run: "#train-head .run-head",
        models: "#own-model",
    };
    const had = () => Object.keys(marks).filter((what) => document.querySelector(marks[what]));
    let served = app_id, asked = 0;
    const check = async () => {
        if (document.hidden || Date.now() - asked < pause) return;
        asked = Date.now();
        try {
            const answer = await (await fetch(`${root}${api_prefix}/app_id`)).json();
            if (answer.app_id === served) return;
            if (had().length) window.location.reload();
            else served = answer.app_id;
        } catch {}  // it is not there: gradio waits for it
    };
    for (const act of ["pointerdown", "keydown", "visibilitychange"]) document.addEventListener(act, check, true);
    try {
        const before = JSON.parse(sessionStorage.getItem(store));
        sessionStorage.removeItem(store);
        window.addEventListener("pagehide", () => sessionStorage.setItem(store, JSON.stringify([served, had()])));
        if (!before || before[0] === app_id || !before[1].length) return;
        window.pirfLost = before[1];
        document.querySelector("#restarted").click();
    } catch {}  // some browsers keep nothing
}"""
LOST = "() => [window.pirfLost]"
KINDS = ("comparison", "run", "models")


def sentence(lost: list[str]) -> str:
    """What has become of what the page had, some of `KINDS`."""
    known = [f"the {kind}" for kind in KINDS if kind in lost]
    named = " and ".join(filter(None, [", ".join(known[:-1]), *known[-1:]]))
    return f"the server was restarted, and {named} of this page went with it; everything else works as before"


class Restart:
    """Builds its place, above the tabs, inside an open `gr.Blocks` context."""

    def __init__(self):
        self.notice = gr.HTML(elem_id="notice")
        self.button = gr.Button("", visible="hidden", elem_id="restarted")
        self.lost = gr.JSON(visible=False)

    def connect(self, *begins: Callable) -> None:
        """At the next of the events `begins` there is nothing to be said any more."""
        self.button.click(self.on_restart, self.lost, self.notice, js=LOST, queue=False, **QUIET)
        gr.on(begins, None, None, self.notice, js="() => ''", **PRIVATE)

    @staticmethod
    def on_restart(lost: list[str]) -> str:
        return html.problem(sentence(lost))
