"""Runs of one page of which only the latest goes on: who starts one, of whatever kind, ends the one before.

A ticket for each run, not gradio's `cancels`: with that, a preview under way would come in after the cancellation, and
the page would wait for the end of a run that is over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

import gradio as gr

from ..drawing import html
from ..serving.lanes import Place, queued
from ..wiring import COMPUTE, PRIVATE

SHOWN = {"show_progress": "hidden", "trigger_mode": "multiple"} | PRIVATE


@dataclass(frozen=True)
class Kind:
    """A kind of run: where it tells how it gets on, what is said there once it was stopped, and what else it shows
    only while it goes on."""

    status: gr.HTML
    stopped: str
    passing: tuple[gr.HTML, ...] = ()


class Tickets:
    """Built inside an open `gr.Blocks` context; all kinds are added before any is connected."""

    def __init__(self):
        self.latest = gr.Textbox("", visible=False)
        self._kinds: dict[str, Kind] = {}
        self._wanted: dict[str, bool] = {}  # of runs that wait or compute; False once the visitor has stopped one

    def add(self, name: str, status: gr.HTML, stopped: str, *passing: gr.HTML) -> None:
        self._kinds[name] = Kind(status, stopped, passing)

    def connect(self, name: str, starts: Sequence[Callable], stop: Callable, run: Callable, inputs, outputs):
        """At any of the events `starts`, `run(*inputs, ticket)` goes on until another begins or `stop` is pressed.
        Returns the event of `run`."""
        begin = lambda before: self.begin(before, name)  # noqa: E731
        begun = gr.on(starts, begin, self.latest, [self.latest, *self.told], queue=False, **SHOWN)
        running = begun.then(run, [*inputs, self.latest], outputs, **SHOWN, **COMPUTE)
        stop(self.stop, self.latest, self.told, queue=False, show_progress="hidden", **PRIVATE)
        return running

    @property
    def told(self) -> list[gr.HTML]:
        return [part for kind in self._kinds.values() for part in (kind.status, *kind.passing)]

    def begin(self, before: str, name: str) -> dict:
        """Ends the page's previous run, if it is still under way, and hands out a ticket for the next."""
        self.end(before)
        ticket = f"{name}-{uuid4().hex}"
        self._wanted[ticket] = True
        return {self.latest: ticket} | dict.fromkeys(self.told, "") | {self._kinds[name].status: html.WAITING}

    def stop(self, ticket: str) -> dict:
        """Asks the run with that ticket to end, whichever Stop was pressed."""
        if ticket not in self._wanted:
            return dict.fromkeys(self.told, gr.skip())
        self._wanted[ticket] = False
        return dict.fromkeys(self.told, "") | self.said(ticket)

    def said(self, ticket: str) -> dict:
        """What a run says last that was stopped; nothing is changed where another one has followed it."""
        kind = self.kind(ticket)
        if ticket not in self._wanted:
            return {kind.status: gr.skip()}
        return dict.fromkeys(kind.passing, "") | {kind.status: kind.stopped}

    def kind(self, ticket: str) -> Kind:
        return self._kinds[ticket.partition("-")[0]]

    def wanted(self, ticket: str) -> bool:
        return self._wanted.get(ticket, False)

    def waiting(self, ticket: str, place: Place) -> Iterator[dict]:
        """Tells how many are ahead until the place is served, or the run is not wanted any more."""
        status = self.kind(ticket).status
        for ahead in queued(place):
            if not self.wanted(ticket):
                return
            yield {status: html.waiting(ahead)}

    def end(self, ticket: str) -> None:
        self._wanted.pop(ticket, None)
