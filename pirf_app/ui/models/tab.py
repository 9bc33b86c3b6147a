"""The Models tab: every model there is, and the ways to add one: a repository of the Hub, a file."""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import gradio as gr
from huggingface_hub import constants

from ...common.checks import InputError
from ...hub.client import Transfer
from ...hub.collection import HubLibrary
from ...hub.fetch import Snapshot, fetch, prune
from ..drawing import html
from ..serving.own_models import NoRoomError, clean_name, take_upload
from ..serving.server import Server
from ..serving.visitors import Visitor
from ..wiring import QUIET
from . import push
from .table import arriving, entries, own_models, table

VISITOR_BYTES, VISITOR_SECONDS = 128 * 10**6, 180.0  # for a repository that a visitor asks for
CACHE_BYTES = 2 * 10**9  # for all that they have asked for
AT_ONCE = 2  # such repositories at a time; others wait
EVERY = 0.4  # seconds between two looks at a download
SKIP = (gr.skip(), gr.skip())
log = logging.getLogger(__name__)
BUSY = "the Hub is being asked for other visitors just now: try again in a minute"
INTRO = """Models that are bundled with this app or that its owner added are there for everyone. Only you can see
what you add here, and only until you close the page: fetch a repository of checkpoints from the Hugging Face Hub, or
upload one file. Every file is checked before it is used."""


def in_background(work: Callable[[], object]) -> Future:
    """Runs `work` on a thread that does not keep the server from ending."""
    future: Future = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def make_room(cache: Path) -> None:
    """Keeps what visitors have asked for within its bounds. Raises InputError."""
    try:
        prune(cache, CACHE_BYTES)
    except OSError as error:
        log.exception("the cache was not pruned")
        why = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        raise InputError(f"this server cannot make room for repositories just now ({why})") from None


def counted(models: int) -> str:
    return f"{models} {'model' if models == 1 else 'models'}"


class ModelsTab:
    """Builds the tab inside an open `gr.Tab` context and holds its components."""

    def __init__(self, server: Server):
        self.visitors, self.collection, self.lanes = server.visitors, server.library, server.lanes
        self.places = threading.BoundedSemaphore(AT_ONCE)
        self.counting, self.fetching = threading.Lock(), 0
        gr.HTML(f'<p class="caption">{INTRO}</p>', elem_id="models-intro")
        with gr.Row(elem_id="models-tools"):
            with gr.Column(min_width=260, elem_classes="tool"):
                label = "Repository on the Hugging Face Hub"
                self.repo = gr.Textbox(label=label, placeholder="OWNER/NAME", max_lines=1, elem_id="models-repo")
                self.fetch = gr.Button("Fetch", variant="primary", size="sm", elem_id="models-fetch")
            with gr.Column(min_width=260, elem_classes="tool"):
                self.mine = gr.Dropdown([], label="Your own models", elem_id="models-own")
                with gr.Row(elem_id="models-buttons"):
                    self.upload = gr.UploadButton(
                        "Add a file", file_types=[".safetensors"], size="sm", elem_id="models-upload"
                    )
                    self.remove = gr.Button("Remove", size="sm", elem_id="models-remove")
            self.push = push.controls() if push.possible() else None
        self.status = gr.HTML(elem_id="models-status")
        self.arrivals = gr.HTML(elem_id="models-arrivals")
        self.table = gr.HTML(self.table_for(None), elem_id="models-table")
        self.clock = gr.Timer(1.5, active=False)
        self.connect()

    def connect(self) -> None:
        shown = [self.table, self.mine]
        gr.on(
            [self.fetch.click, self.repo.submit],
            self.on_fetch,
            self.repo,
            [self.status, *shown],
            concurrency_limit=8,
            trigger_mode="once",
            **QUIET,
        )
        self.upload.upload(self.on_upload, self.upload, [self.status, *shown], concurrency_limit=2, **QUIET)
        self.remove.click(self.on_remove, self.mine, [self.status, *shown], queue=False, **QUIET)
        self.clock.tick(self.on_clock, self.mine, [self.arrivals, self.clock, *shown], queue=False, **QUIET)
        if self.push:
            self.push.connect(self.on_push_file, self.mine, self.status)

    def visitor(self, request: gr.Request) -> Visitor:
        return self.visitors.of(request.session_hash)

    def table_for(self, session: str | None) -> str:
        """The table that a session sees; what is wrong with the manifest, if it cannot be read."""
        try:
            return table(entries(self.visitors, session))
        except InputError as error:
            return html.problem(error)

    def shown(self, request: gr.Request, chosen: str | None = None):
        """The table and the choice of own models, as they are now: `chosen` if it is there, else the newest."""
        names = [model.name for model in own_models(self.visitors, request.session_hash)]
        value = chosen if chosen in names else next(reversed(names), None)
        return self.table_for(request.session_hash), gr.update(choices=names, value=value)

    def on_clock(self, chosen: str | None, request: gr.Request):
        """What the server is fetching by itself; the clock runs until that has come or failed."""
        waiting = any(arrival.state == "fetching" for arrival in self.collection.arrivals)
        return arriving(self.collection.arrivals), gr.Timer(active=waiting), *self.shown(request, chosen)

    def on_fetch(self, text: str, request: gr.Request):
        if not self.places.acquire(blocking=False):
            yield html.problem(BUSY), gr.skip(), gr.skip()
            return
        transfer = Transfer(VISITOR_SECONDS, VISITOR_BYTES)
        job = in_background(lambda: self.fetch_and_leave(text, transfer))
        try:
            while not job.done():
                now = f"Fetching {transfer.file} … {transfer.progress()}"  # `text` is what `job` reads
                yield html.bar(now, transfer.done, transfer.total), *SKIP
                time.sleep(EVERY)
            yield self.added(job.result(), self.visitor(request)), *self.shown(request)
        except InputError as error:
            yield html.problem(error), *self.shown(request)

    def fetch_and_leave(self, text: str, transfer: Transfer) -> HubLibrary:
        """A checked repository, fetched as anyone may: without this server's token, and into a cache of its own. Raises
        InputError."""
        try:
            cache = Path(constants.HF_HUB_CACHE).parent / "pirf-public"
            with self.counting:
                if not self.fetching:
                    make_room(cache)
                self.fetching += 1
            try:
                snapshot: Snapshot = fetch(text, transfer, False, cache)
                return HubLibrary(snapshot, self.collection)
            finally:
                with self.counting:
                    self.fetching -= 1
        finally:
            self.places.release()

    def added(self, found: HubLibrary, visitor: Visitor) -> str:
        """Takes the models of a repository in as the visitor's own; what there is to say about it."""
        known = {entry["sha256"] for entry in self.collection.manifest()}
        known |= {model.sha256 for model in visitor.models.mine()}
        new = [entry for entry in found.manifest() if entry["sha256"] not in known]
        problems, added = list(found.problems), []
        for entry in sorted(new, key=lambda entry: entry["parent"] is not None):  # a parent before its child
            name = clean_name(f"{entry['name']}-{found.snapshot.repo.split('/')[1]}")
            try:
                path, source = found.folder / entry["file"], found.snapshot.title
                model = self.lanes.do(lambda p=path, n=name, s=source: visitor.models.add(p, n, source=s))
                added.append(model.name)
            except NoRoomError as error:
                problems.append(str(error))
                break
            except InputError as error:
                problems.append(str(error))
        same = len(found.manifest()) - len(new)
        said = [f"{counted(len(added))} added from {found.snapshot.title}" if added else ""]
        said.append(f"{counted(same)} of {found.snapshot.repo}: here already" if same else "")
        said.append(found.snapshot.note)
        good = "".join(f'<p class="caption">{html.as_sentence(text)}</p>' for text in said if text)
        return good + "".join(html.problem(text) for text in problems)

    def on_upload(self, path: str, request: gr.Request):
        try:
            model = take_upload(path, self.visitor(request).models, self.lanes)
            said = f'<p class="caption">{html.as_sentence(f"{model.name} is one of your models now")}</p>'
        except InputError as error:
            said = html.problem(error)
        return said, *self.shown(request)

    def on_remove(self, name: str | None, request: gr.Request):
        try:
            self.visitor(request).models.remove(name or "")
            said = f'<p class="caption">{html.as_sentence(f"{name} is removed")}</p>'
        except InputError as error:
            said = html.problem(error)
        return said, *self.shown(request)

    def on_push_file(self, name: str | None, request: gr.Request):
        """The visitor's model of that name and the library that knows its parent. Raises InputError."""
        models = self.visitor(request).models
        return models.own(name or ""), models
