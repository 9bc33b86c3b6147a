"""The whole page: heading, tabs, API; and how it is launched."""

import os
from pathlib import Path

import gradio as gr
import torch

from ..common.threads import usable_cores
from ..evaluation.exports import FIRST_VIEW
from ..hub.collection import Collection
from ..models.checkpoint import MAX_BYTES
from ..models.library import BUNDLED, Library
from .check.api import add_check
from .check.tab import CheckTab
from .compare.api import add_api
from .compare.tab import SHOW_LINK, CompareTab
from .drawing import html, thumbnails
from .models.tab import ModelsTab
from .serving import gpu
from .serving.lanes import Lanes
from .serving.offered import problems, warm_up
from .serving.restart import WATCH, Restart
from .serving.server import Server
from .serving.visitors import Visitors
from .style import CSS, theme
from .train.api import add_finetune
from .train.tab import TRAIN, TrainTab
from .train_style import TRAIN_CSS
from .wiring import HEAR_INPUT, MOUNTED, PRIVATE, QUIET, all_of

PAPER = "https://arxiv.org/abs/2509.20570"
HEADING = f"""<h1>PIRF: physics-informed reward fine-tuning</h1>
<p>Diffusion models draw fields that should solve a partial differential equation. See how far each is from doing so:
a baseline and its fine-tuned twin, from the same noise, next to a real solver.
<a href="{PAPER}" target="_blank" rel="noopener">Paper</a></p>"""
BEFORE_PAGE = 20.0  # seconds for models that must come before it
WARM_UP = 5.0  # seconds that the page has for itself before models are loaded
AT_ONCE = 8  # visitors who compute on a shared GPU
SESSIONS = 200  # whose results are kept in memory


def build(library: Library | None = None, first_view: Path = FIRST_VIEW, lanes: Lanes | None = None) -> gr.Blocks:
    """The page over a library of checkpoints: that in the folder PIRF_CHECKPOINTS, or the bundled one. The models of
    the Hub repository PIRF_MODEL_REPO come to it in the background, and with a shared GPU before it is served."""
    library = Collection(library or Library(Path(os.environ.get("PIRF_CHECKPOINTS") or BUNDLED)))
    lanes = lanes or (Lanes(AT_ONCE, AT_ONCE) if gpu.spaces else Lanes())
    server = Server(library, Visitors(library), lanes)

    def away(request: gr.Request):
        server.visitors.away(request.session_hash)

    torch.set_num_threads(usable_cores())
    with gr.Blocks(title="PIRF", analytics_enabled=False, delete_cache=(3600, 6 * 3600), fill_width=True) as demo:
        gr.HTML(HEADING, elem_id="heading")
        found = problems(library.bundled)
        gr.HTML("".join(html.problem(sentence) for sentence in found), visible=bool(found), elem_id="problems")
        restart = Restart()
        with gr.Tabs():
            with gr.Tab("Compare", id="compare") as compare:
                tab = CompareTab(server, first_view)
            with gr.Tab("Train", id="train", render_children=True) as train_tab:
                training = TrainTab(server, tab.controls)
                back = training.open(demo, train_tab)
            with gr.Tab("Check", id="check", render_children=True):
                CheckTab(server, tab.controls.first_pde)
            with gr.Tab("Models", id="models") as models:
                listed = ModelsTab(server)
        chosen = tab.controls
        shown, found = [chosen.pde, chosen.methods, chosen.resolution], [chosen.resolution, chosen.methods]
        compare.select(chosen.on_return, shown, found, queue=False, **QUIET)
        now = [listed.arrivals, listed.clock, listed.table, listed.mine]
        for when in (back.then, models.select):
            when(listed.on_clock, listed.mine, now, queue=False, **QUIET)
        restart.connect(chosen.run.click, training.start.click)
        opened = demo.load(tab.on_load, None, tab.restored, queue=False, **QUIET)
        opened.then(None, tab.query, tab.link, js=SHOW_LINK, **PRIVATE)
        demo.load(tab.on_files, [tab.result, tab.shown], tab.files, **QUIET)
        add_api(server)
        add_check(server)
        add_finetune(server, training.recipes, TRAIN)
        demo.unload(away)
    # A process for a shared GPU is a copy of this one: threads at work then could leave locks shut. So models come
    # before the page does, or not at all; the Space's build has fetched them (`preload_from_hub`).
    if repository := os.environ.get("PIRF_MODEL_REPO"):
        arrival = library.follow(repository, seconds=BEFORE_PAGE if gpu.spaces else None)
        if gpu.spaces:
            arrival.ended.wait()
    if not gpu.spaces:
        warm_up(library.bundled, WARM_UP, lanes)
    return demo.queue(max_size=64)


def launch(demo: gr.Blocks, **options):
    """`demo.launch` with everything that belongs to this page."""
    return demo.launch(
        theme=theme(),
        css=CSS + TRAIN_CSS + thumbnails.css(),
        js=all_of(HEAR_INPUT, WATCH, MOUNTED),  # run once all components are there
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        footer_links=["api", "settings"],
        run_history=False,
        enable_monitoring=False,  # who asked for what, and how long it took, is not for strangers
        app_kwargs={"openapi_url": None},  # gradio's own routes; the API is described at /gradio_api/openapi.json
        state_session_capacity=SESSIONS,
        **options,
    )
