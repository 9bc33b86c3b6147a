"""What the Train tab is made of: the lane, a visitor's models, curves, runs. No browser and no server."""

import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file, save_file

from pirf_app.checkpoints import MAX_BYTES
from pirf_app.comparison import compare, last
from pirf_app.methods.pirf_config import PirfStep
from pirf_app.pdes.base import InputError
from pirf_app.ui import own as own_module
from pirf_app.ui.charts import Chart, Curve, Scale, draw, scale_of, smooth, ticks, updates_axis
from pirf_app.ui.compare import CompareTab
from pirf_app.ui.history import History, charts
from pirf_app.ui.lane import Lanes, Line, queued
from pirf_app.ui.own import Visitors, take_upload
from pirf_app.ui.recipes import Recipes, config_of
from pirf_app.ui.start import prepare
from pirf_app.ui.train import FAILED, TrainTab
from pirf_app.ui.train_parts import head, samples_grid, verdict
from pirf_app.wording import method_title

QUICK = {"updates": 4, "pool": 8, "batch": 2, "validation": 2, "validate_every": 2, "pool_steps": "4", "seed": 1}


def test_a_line_serves_in_order_of_arrival_and_tells_how_many_are_ahead():
    line = Line(2)
    places = [line.join() for _ in range(4)]
    assert [place.ahead for place in places] == [0, 0, 1, 2]
    assert line.waiting == 2
    assert not places[2].wait(0.01)
    assert next(queued(places[3])) == 2
    places[0].leave()
    places[0].leave()
    assert [place.ahead for place in places[1:]] == [0, 0, 1]
    assert places[2].wait(0.01)
    assert list(queued(places[2])) == []


def events(count: int, seconds: float, log: list, name: str):
    for k in range(count):
        time.sleep(seconds)
        log.append(name)
        yield k


def test_a_sampler_gets_its_turns_while_a_training_goes_on():
    lanes, log = Lanes(), []
    taken: list = []

    def train():
        taken.extend(lanes.slices(events(40, 0.02, log, "train"), seconds=10))

    trainer = threading.Thread(target=train)
    trainer.start()
    time.sleep(0.1)
    assert list(lanes.steps(events(6, 0.02, log, "sample"))) == list(range(6))
    trainer.join()
    assert [k for part in taken for k in part] == list(range(40))
    first, end = log.index("sample"), len(log) - 1 - log[::-1].index("sample")
    between = log[first:end].count("train")
    assert 0 < between <= 12  # an update or two between two steps of the sampler, however long a slice may be


def test_a_slice_ends_in_time_and_tells_what_came_before_an_error():
    lanes = Lanes()
    sizes = [len(part) for part in lanes.slices(events(6, 0.03, [], ""), seconds=0.08)]
    assert sum(sizes) == 6
    assert len(sizes) > 1
    assert max(sizes) <= 3

    def failing():
        yield 1
        yield 2
        raise InputError("no")

    parts = lanes.slices(failing())
    assert next(parts) == [1, 2]
    with pytest.raises(InputError):
        next(parts)
    assert lanes.lane.waiting == 0
    assert lanes.do(lambda: 3) == 3


@pytest.fixture
def visitors(tiny_library) -> Visitors:
    return Visitors(tiny_library)


@pytest.fixture
def tuned(tiny_folder):
    return tiny_folder / "darcy-16-pirf.safetensors"


def test_a_visitor_s_model_is_one_more_method_for_them_alone(visitors, tuned):
    mine, yours = visitors.of("a").models, visitors.of("b").models
    model = mine.add(tuned, "attempt")
    assert model.method == "my:attempt"
    assert method_title(model.method) == "attempt"
    assert mine.methods("darcy") == ["base", "pirf", "my:attempt"]
    assert yours.methods("darcy") == ["base", "pirf"]
    assert visitors.library("c") is visitors.shared
    result = last(compare(mine, "darcy", ["base", "pirf", "my:attempt"], 3, 1, 0))
    assert [r.method for r in result.results] == ["base", "pirf", "my:attempt"]
    assert torch.equal(*(torch.from_numpy(r.fields) for r in result.results[1:]))
    for method in ("my:attempt", "my:other"):
        with pytest.raises(InputError):
            last(compare(yours, "darcy", ["base", method], 3, 1, 0))
    assert mine.add(tuned, "Attempt").name == "Attempt-2"
    mine.remove("attempt")
    assert mine.methods("darcy") == ["base", "pirf", "my:Attempt-2"]
    with pytest.raises(InputError, match="no model called"):
        mine.remove("attempt")


def test_a_visitor_who_leaves_leaves_nothing(visitors, tuned, monkeypatch):
    visitor = visitors.of("a")
    path = visitor.models.add(tuned).path
    visitors.away("a")
    assert path.exists()
    visitors.forget("a")
    assert not path.exists()
    assert not visitor.folder.exists()
    monkeypatch.setattr(own_module, "MAX_VISITORS", 2)
    folders = [visitors.of(name).folder for name in "abc"]
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_room_is_made_by_those_who_have_least_to_lose(visitors, tuned, monkeypatch):
    monkeypatch.setattr(own_module, "MAX_VISITORS", 3)
    busy, owner, idle = (visitors.of(name) for name in ("busy", "owner", "idle"))
    busy.run = SimpleNamespace(going=True, stop=lambda: None)
    owner.models.add(tuned)
    visitors.of("d").models.add(tuned)
    assert [v.folder.exists() for v in (busy, owner, idle)] == [True, True, False]
    visitors.of("e").models.add(tuned)
    assert [v.folder.exists() for v in (busy, owner)] == [True, False]
    for name in "de":
        visitors.of(name).run = busy.run
    assert visitors.of("f").folder.exists()
    assert busy.folder.exists()


def test_those_who_stay_away_are_forgotten_and_those_who_return_are_not(visitors, monkeypatch):
    monkeypatch.setattr(own_module, "KEEP_SECONDS", 0.2)
    gone, back, sampling = (visitors.of(name) for name in ("gone", "back", "sampling"))
    for name in ("gone", "back", "sampling"):
        visitors.away(name)
    assert visitors.of("back") is back
    assert visitors.library("sampling") is sampling.models
    time.sleep(0.6)
    assert not gone.folder.exists()
    assert back.folder.exists()
    assert sampling.folder.exists()


def damage(kind: str, tensors: dict) -> dict:
    key = next(iter(tensors))
    if kind == "key":
        return {**tensors, "network.extra": tensors[key].clone()}
    if kind == "shape":
        return {**tensors, key: tensors[key].flatten()[:1]}
    if kind == "dtype":
        return {**tensors, key: tensors[key].double()}
    return {**tensors, key: torch.full_like(tensors[key], float("nan"))}


@pytest.mark.parametrize(
    ("kind", "words"),
    [("key", "unknown tensors"), ("shape", "has shape"), ("dtype", "has dtype"), ("nan", "not finite")],
)
def test_a_damaged_upload_is_refused_with_a_reason(visitors, tuned, tmp_path, kind, words):
    from safetensors import safe_open

    with safe_open(tuned, "pt") as file:
        metadata = file.metadata()
    path = tmp_path / "mine.safetensors"
    save_file(damage(kind, load_file(tuned)), path, metadata)
    with pytest.raises(InputError, match=words):
        visitors.of("a").models.add(path)
    assert visitors.of("a").models.mine() == []


def test_an_upload_is_checked_in_the_lane_and_not_kept_twice(visitors, tuned, tmp_path):
    models, lanes = visitors.of("a").models, Lanes()
    for name, content in (("mine", tuned.read_bytes()), ("broken", b"nonsense")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with nullcontext() if name == "mine" else pytest.raises(InputError, match="broken"):
            take_upload(str(path), models, lanes)
        assert not path.exists()
    assert [model.name for model in models.mine()] == ["mine"]
    assert models.mine()[0].path.exists()


def test_two_gigabytes_are_refused_before_they_are_read(visitors, tmp_path):
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as file:
        file.truncate(2 * 2**30)
    began = time.monotonic()
    with pytest.raises(InputError, match=f"at most {MAX_BYTES // 10**6}"):
        visitors.of("a").models.add(path)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 41, "a\nb"])
def test_names_are_fit_for_files(visitors, tuned, name):
    if name:
        with pytest.raises(InputError, match="a name has"):
            visitors.of("a").models.add(tuned, name)
    else:
        assert visitors.of("a").models.add(tuned, name).name == "darcy-16-pirf"


def test_there_are_limits_to_what_is_kept(visitors, tuned, monkeypatch):
    models = visitors.of("a").models
    monkeypatch.setattr(own_module, "MAX_MODELS", 2)
    models.add(tuned)
    models.add(tuned)
    with pytest.raises(InputError, match="remove one"):
        models.add(tuned)
    monkeypatch.setattr(own_module, "MAX_TOTAL", 1)
    with pytest.raises(InputError, match="no room"):
        visitors.of("b").models.add(tuned)


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
    assert run.history.done == 3  # it ends with the slice under way
    assert run.resumable
    assert run.tuning is None
    assert run.again()
    list(run.work(lanes))
    run.finish(lanes, visitor.models)
    assert run.phase == "complete"
    assert [step.update for step in run.history.steps] == [0, 1, 2, 3, 4]
    first, second = (load_file(visitor.models.own(name).path) for name in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)


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


def history_of(count: int, worse: bool = False) -> History:
    history = History("a <run>", count, {"residual": [("floor", 1e-9), ("bundled PIRF", 0.5)]})
    for k in range(count + 1):
        held = (1.5 - 0.01 * k, 0.01) if k % 5 == 0 else (None, None)
        step = PirfStep(k, count, 2 - 0.01 * k, 1.6, 0.0, 1e-4 * k, 1e-3, 0.1 * k, *held)
        history.add(replace(step, warning="residual falls while forward-solve error rises") if worse else step)
    return history


def test_curves_grow_and_are_safe_to_show():
    few, many = (charts(history_of(count)) for count in (5, 50))
    assert few.count('class="chart"') == 4
    assert len(many) > len(few)
    assert len(charts(history_of(5000))) < 120_000
    assert "<run>" not in charts(history_of(5), history_of(9))
    assert "floor 1e-09 ↓" in few


def test_a_chart_survives_what_is_not_finite():
    nothing = Chart("x", "", [Curve("a", [], [], "raw")], log=True)
    assert "<svg" in draw(nothing, updates_axis(0))
    odd = Chart("x", "", [Curve("a", [1, 2, 3, 4], [float("nan"), None, 1e30, float("inf")], "raw")])
    assert "nan" not in draw(odd, updates_axis(4)).lower()
    assert smooth([1.0, float("nan"), 1.0])[1] == 1.0
    assert scale_of(odd).high > 1e30


@pytest.mark.parametrize(("low", "high"), [(1e-5, 3.0), (0.9, 1.1), (2.0, 30.0), (1e-9, 1e9)])
def test_ticks_are_few_and_within_the_scale(low, high):
    found = ticks(Scale(low, high, True))
    assert 1 <= len(found) <= 10
    assert all(low <= t <= high for t in found)


def test_numbers_of_the_recipe_are_checked_in_words():
    assert config_of("pirf", {"updates": 5.0, "pool_steps": "5, 10", "seed": "7", "unknown": 1}).pool_steps == (5, 10)
    assert config_of("pirf", {"updates": None}).updates == 900


@pytest.fixture
def tab(visitors) -> TrainTab:
    lanes = Lanes()
    with gr.Blocks():
        return TrainTab(visitors, lanes, CompareTab(visitors, lanes).controls)


def test_a_run_that_nobody_has_made_work_yet_is_stopped_at_once(tab):
    visitor = tab.visitors.of("a")
    prepare(visitor, Recipes(tab.lanes), "darcy", "base", "pirf", QUICK)
    changes = tab.on_stop(SimpleNamespace(session_hash="a"))
    assert visitor.run.phase == "stopped"
    assert [changes[button]["interactive"] for button in tab.buttons] == [True, False, False, True]
    assert list(tab.on_run(SimpleNamespace(session_hash="a"))) == []


def test_a_failure_is_told_and_the_buttons_come_back(tab):
    visitor = tab.visitors.of("a")
    prepare(visitor, Recipes(tab.lanes), "darcy", "base", "pirf", QUICK)
    visitor.run.build = lambda: 1 / 0
    *_, last_change = tab.on_run(SimpleNamespace(session_hash="a"))
    assert visitor.run.phase == "failed"
    assert visitor.run.message == FAILED
    assert 'role="alert"' in last_change[tab.head]
    assert [last_change[button]["interactive"] for button in tab.buttons] == [True, False, False, True]


@pytest.mark.parametrize(
    ("known", "chosen", "value"),
    [
        (["base", "pirf"], None, ["base", "pirf"]),
        (["base"], None, ["base"]),
        (["gone", "pirf"], None, ["pirf"]),
        (["gone", "gone too", "gone as well"], None, ["base", "pirf"]),
        (["gone", "base"], ["gone", "my:darcy-16-pirf"], ["my:darcy-16-pirf"]),
    ],
)
def test_methods_are_those_of_today_whatever_there_was_at_the_start(tab, tuned, known, chosen, value):
    models, compared = tab.visitors.of("a").models, tab.own.compare
    models.add(tuned)
    compared.models = {"darcy": known}
    found = compared.method_choices("darcy", chosen, models)
    assert [method for _, method in found["choices"]] == ["base", "pirf", "my:darcy-16-pirf"]
    assert found["value"] == value


def test_the_lists_show_what_came_from_elsewhere_and_make_nobody_a_visitor(tab, tuned):
    own, chosen = tab.own, (None, None, "darcy", "base", "darcy", ["base"])
    own.on_list(*chosen, SimpleNamespace(session_hash="a"))
    assert tab.visitors.known("a") is None
    tab.visitors.of("a").models.add(tuned)
    changes = own.on_list(*chosen, SimpleNamespace(session_hash="a"))
    assert changes[own.model]["value"] == "darcy-16-pirf"
    assert [method for _, method in changes[own.begin]["choices"]] == ["base", "my:darcy-16-pirf"]
    assert changes[own.begin]["value"] == "base"
