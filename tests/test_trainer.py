"""What the Train tab is made of: runs, curves, the tab itself. No browser and no server."""

import threading
from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file

from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.evaluation.comparison import compare, last
from pirf_app.methods.speed import Speed
from pirf_app.ui.compare.tab import CompareTab
from pirf_app.ui.serving.lanes import Lanes
from pirf_app.ui.serving.server import Server
from pirf_app.ui.train.prepare import prepare
from pirf_app.ui.train.recipes import Recipes, config_of
from pirf_app.ui.train.run import TrainingRun
from pirf_app.ui.train.run_html import head, samples_grid, verdict
from pirf_app.ui.train.tab import FAILED, TrainTab

QUICK = {"updates": 4, "pool": 8, "batch": 2, "validation": 2, "validate_every": 2, "pool_steps": "4", "seed": 1}


def run_of(visitors, lanes, session="a", name="", **changes):
    visitor = visitors.of(session)
    prepare(visitor, Recipes(lanes), "darcy", "base", "pirf", QUICK | changes, name)
    assert visitor.run.claim()
    assert not visitor.run.claim()
    return visitor, visitor.run


def test_a_run_is_drawn_measured_trained_and_handed_over(visitors):
    lanes = Lanes()
    visitor, run = run_of(visitors, lanes)
    for _ in run.work(lanes):
        head(run)
    run.finish(lanes, visitor.models)
    assert run.phase == "complete"
    assert [step.update for step in run.history.steps] == [0, 1, 2, 3, 4]
    assert [step.update for step in run.history.held] == [0, 2, 4]
    assert samples_grid(run).rows == ["Before", "After"]
    assert "held-out noise" in verdict(run)
    assert run.models["last"].name == "darcy-pirf"
    assert run.models["last"].history is run.history
    assert "--pde darcy" in run.command
    assert "--out darcy-pirf.safetensors" in run.command
    assert not run.resumable
    result = last(compare(visitor.models, "darcy", ["base", "my:darcy-pirf"], 3, 1, 0))
    assert len(result.results) == 2


def test_a_stopped_run_resumes_and_ends_as_if_it_had_not_been_stopped(visitors):
    lanes = Lanes()
    visitor, whole = run_of(visitors, lanes, name="whole")
    list(whole.work(lanes))
    whole.finish(lanes, visitor.models)
    _, run = run_of(visitors, lanes, name="parts")
    lanes.slices = partial(lanes.slices, seconds=0)  # one update in each
    for _ in run.work(lanes):
        if run.history.done == 2:
            run.stop()
    run.finish(lanes, visitor.models)
    assert run.phase == "stopped"
    assert run.history.done == 2
    assert run.resumable
    assert run.tuning is None
    assert run.again()
    list(run.work(lanes))
    run.finish(lanes, visitor.models)
    assert run.phase == "complete"
    assert [step.update for step in run.history.steps] == [0, 1, 2, 3, 4]
    first, second = (load_file(visitor.models.own(name).path) for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_result_of_a_stopped_run_is_kept_although_its_state_does_not_fit(visitors, monkeypatch):
    lanes = Lanes()
    visitor, run = run_of(visitors, lanes)
    lanes.slices = partial(lanes.slices, seconds=0)
    for _ in run.work(lanes):
        if run.history.done == 2:
            run.stop()

    def full(path):
        raise InputError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr(run.tuning, "save", full)
    run.finish(lanes, visitor.models)
    assert (run.phase, run.resumable) == ("stopped", False)
    assert "its result is kept" in run.message
    assert str(run.folder) not in run.message
    assert visitor.models.mine()[0].info.recipe["updates"] == 2


def test_the_longest_name_has_a_best_state_too(visitors, monkeypatch):
    monkeypatch.setattr(TrainingRun, "best", property(lambda run: run.history.held[1]))
    lanes = Lanes()
    visitor, run = run_of(visitors, lanes, name="x" * 40)
    list(run.work(lanes))
    run.finish(lanes, visitor.models)
    assert run.message == ""
    assert [model.name for model in run.models.values()] == ["x" * 40, "x" * 35 + "-best"]


def test_a_run_that_began_meanwhile_is_not_replaced(visitors, monkeypatch):
    lanes, recipes = Lanes(), Recipes(Lanes())
    visitor, real = visitors.of("a"), Recipes.check

    def check(*arguments):
        monkeypatch.setattr(Recipes, "check", real)
        prepare(visitor, recipes, "darcy", "base", "pirf", QUICK, "first")
        return real(*arguments)

    monkeypatch.setattr(Recipes, "check", check)
    with pytest.raises(InputError, match="stop it first"):
        prepare(visitor, Recipes(lanes), "darcy", "base", "pirf", QUICK, "second")
    assert visitor.run.name == "first"
    assert visitor.run.folder.is_dir()


def test_work_between_two_events_is_as_long_as_others_may_wait(visitors, monkeypatch):
    for update, chunk in ((0.01, 16), (0.2, 2), (3.0, 1)):
        monkeypatch.setattr(Recipes, "speed", lambda *_, u=update: Speed(0.001, u, 0.001, 1e6))
        run = prepare(visitors.of("a"), Recipes(Lanes()), "darcy", "base", "pirf", QUICK)
        assert run.config.chunk == chunk
        run.stop()


def test_a_reader_who_goes_away_ends_the_run_and_keeps_what_it_learned(visitors):
    lanes = Lanes()
    visitor, run = run_of(visitors, lanes, updates=500, validate_every=500)

    def reader():
        with run.finishing(lanes, visitor.models):
            yield from run.work(lanes)

    read = reader()
    while run.history.done < 2:
        next(read)
    with lanes.lane.turn():  # while others compute
        read.close()
        assert run.going
        assert not run.state.exists()
    for thread in threading.enumerate():
        if thread.name == "finish":
            assert not thread.daemon
            thread.join()
    assert run.phase == "stopped"
    assert run.resumable
    assert run.tuning is None
    assert lanes.lane.join().ahead == 0
    assert "last" in run.models


def test_a_run_that_ends_while_it_waits_does_not_block_the_next_one(visitors):
    lanes = Lanes()
    visitor, first = run_of(visitors, lanes)
    first.finish(lanes, visitor.models)
    assert first.phase == "stopped"
    assert not first.resumable
    _, run = run_of(visitors, lanes)
    assert run.folder.exists()
    assert not first.folder.exists()
    run.stop()
    assert list(run.work(lanes)) == []
    run.finish(lanes, visitor.models)
    assert run.phase == "stopped"
    assert "before its first update" in head(run)


def test_a_diverging_run_ends_with_a_sentence_and_its_last_finite_state(visitors):
    lanes = Lanes()
    visitor, run = run_of(visitors, lanes, learning_rate=1e30, updates=40, warmup=1)
    list(run.work(lanes))
    run.finish(lanes, visitor.models)
    assert run.phase == "diverged"
    assert "lower learning rate" in run.message
    assert 'role="alert"' in head(run)
    assert ("last" in run.models) == ("last finite state" in run.message)
    if "last" in run.models:
        assert all(tensor.isfinite().all() for tensor in load_file(run.models["last"].path).values())


def test_a_run_is_refused_before_it_begins(visitors, monkeypatch):
    lanes = Lanes()
    visitor = visitors.of("a")
    start = lambda values=None, pde="darcy", begin="base", method="pirf": prepare(  # noqa: E731
        visitor, Recipes(lanes), pde, begin, method, QUICK | (values or {})
    )
    for values, words in (
        ({"updates": 0}, "updates must be"),
        ({"batch": 1.5}, "batch must be"),
        ({"learning_rate": -1}, "learning_rate must be"),
        ({"pool_steps": "ten"}, "pool_steps must be"),
        ({"seed": "-1"}, "seed must be"),
        ({"last_steps": 11, "pool_steps": "20"}, "last_steps must be a whole number from 1 to 10"),
        ({"updates": 10**6, "batch": 10**4}, "are allowed"),
        ({"pool": 10**6}, "are allowed"),
    ):
        with pytest.raises(InputError, match=words):
            start(values)
    with pytest.raises(InputError, match="unknown PDE"):
        start(pde="heat")
    with pytest.raises(InputError, match="cannot start from"):
        start(begin="my:other")
    with pytest.raises(InputError, match="unknown fine-tuning method"):
        start(method="magic")
    start()
    with pytest.raises(InputError, match="stop it first"):
        start()
    assert visitor.run.phase == "waiting"


def test_numbers_of_the_recipe_are_checked_in_words():
    assert config_of("pirf", {"updates": 5.0, "pool_steps": "5, 10", "seed": "7", "unknown": 1}).pool_steps == (5, 10)
    assert config_of("pirf", {"updates": None}).updates == 900


@pytest.fixture
def tab(visitors) -> TrainTab:
    server = Server(visitors.shared, visitors, Lanes())
    with gr.Blocks():
        return TrainTab(server, CompareTab(server).controls)


def test_a_run_that_nobody_has_made_work_yet_is_stopped_at_once(tab):
    visitor = tab.visitors.of("a")
    prepare(visitor, Recipes(tab.lanes), "darcy", "base", "pirf", QUICK)
    changes = tab.on_stop(SimpleNamespace(session_hash="a"))
    assert visitor.run.phase == "stopped"
    assert [changes[button]["interactive"] for button in tab.buttons] == [True, False, False, True]
    (said,) = tab.on_run(SimpleNamespace(session_hash="a"))  # nothing, in so many words
    assert said == {tab.head: gr.skip()}


def test_a_failure_is_told_and_the_buttons_come_back(tab):
    visitor = tab.visitors.of("a")
    prepare(visitor, Recipes(tab.lanes), "darcy", "base", "pirf", QUICK)
    visitor.run.build = lambda: 1 / 0
    shown = {}
    for changes in tab.on_run(SimpleNamespace(session_hash="a")):
        shown |= changes
    assert visitor.run.phase == "failed"
    assert visitor.run.message == FAILED
    assert 'role="alert"' in shown[tab.head]
    assert [shown[button]["interactive"] for button in tab.buttons] == [True, False, False, True]


@pytest.mark.parametrize(
    ("known", "chosen", "value"),
    [
        (["base", "pirf"], None, ["base", "pirf", "my:darcy-16-pirf"]),
        (["base"], None, ["base", "my:darcy-16-pirf"]),
        (["gone", "pirf"], None, ["pirf", "my:darcy-16-pirf"]),
        (["gone", "gone too", "gone as well"], None, ["base", "pirf", "my:darcy-16-pirf"]),
        (["base", "pirf"], ["base"], ["base"]),
        (["gone", "base"], ["gone", "my:darcy-16-pirf"], ["my:darcy-16-pirf"]),
    ],
)
def test_methods_are_those_of_today_whatever_there_was_at_the_start(tab, tuned, known, chosen, value):
    models, compared = tab.visitors.of("a").models, tab.own.compare
    models.add(tuned)
    compared.models = {"darcy": known}
    found = compared.method_choices("darcy", chosen, models)
    assert [method for _, method in found["choices"]] == ["base", "pirf", *GUIDANCE, "my:darcy-16-pirf"]
    assert found["value"] == value


def test_the_lists_show_what_came_from_elsewhere_and_make_nobody_a_visitor(tab, tuned):
    own, chosen = tab.own, (None, None, "darcy", "base", "darcy", ["base"], None)
    own.on_list(*chosen, SimpleNamespace(session_hash="a"))
    assert tab.visitors.known("a") is None
    tab.visitors.of("a").models.add(tuned)
    changes = own.on_list(*chosen, SimpleNamespace(session_hash="a"))
    assert changes[own.model]["value"] == "darcy-16-pirf"
    assert [method for _, method in changes[own.begin]["choices"]] == ["base", "my:darcy-16-pirf"]
    assert changes[own.begin]["value"] == "base"
