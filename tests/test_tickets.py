"""Runs of one page of which only the latest goes on. No browser and no server."""

import gradio as gr
import pytest

from pirf_app.ui.compare.tickets import Tickets
from pirf_app.ui.drawing import html
from pirf_app.ui.serving.lanes import Line


@pytest.fixture
def page():
    with gr.Blocks():
        tickets, run, preview, sweep = Tickets(), gr.HTML(), gr.HTML(), gr.HTML()
        tickets.add("run", run, "run stopped", preview)
        tickets.add("sweep", sweep, "sweep stopped")
    return tickets, run, preview, sweep


def test_who_starts_a_run_of_any_kind_ends_the_one_before(page):
    tickets, run, preview, sweep = page
    first = tickets.begin("", "run")
    assert {k: v for k, v in first.items() if k is not tickets.latest} == {run: html.WAITING, preview: "", sweep: ""}
    second = tickets.begin(first[tickets.latest], "sweep")
    assert second[sweep] == html.WAITING
    assert second[run] == ""
    assert not tickets.wanted(first[tickets.latest])
    assert tickets.wanted(second[tickets.latest])
    assert list(tickets.said(first[tickets.latest])) == [run]  # and it changes nothing there
    assert tickets.said(first[tickets.latest])[run] == gr.skip()
    assert tickets.begin("", "run")[tickets.latest] not in (first[tickets.latest], second[tickets.latest])


def test_a_run_that_is_stopped_says_so_and_one_that_is_over_does_not(page):
    tickets, run, preview, sweep = page
    ticket = tickets.begin("", "run")[tickets.latest]
    assert tickets.stop(ticket) == {run: "run stopped", preview: "", sweep: ""} == tickets.stop(ticket)
    assert not tickets.wanted(ticket)
    assert tickets.said(ticket) == {run: "run stopped", preview: ""}
    tickets.end(ticket)
    assert tickets.stop(ticket) == dict.fromkeys([run, preview, sweep], gr.skip())
    assert tickets.stop("") == dict.fromkeys([run, preview, sweep], gr.skip())


def test_a_run_that_waits_tells_how_many_are_ahead_until_it_is_not_wanted(page):
    tickets, _, _, sweep = page
    ticket, line = tickets.begin("", "sweep")[tickets.latest], Line()
    line.join()
    waiting = tickets.waiting(ticket, line.join())
    assert next(waiting) == {sweep: html.waiting(1)}
    tickets.stop(ticket)
    assert list(waiting) == []
