"""The lane that visitors share, and the models that each of them has for themselves. No browser and no server."""

import itertools
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from waiting import eventually

from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.evaluation.comparison import compare, last
from pirf_app.evaluation.verdicts import method_title
from pirf_app.models import checkpoint as checkpoints
from pirf_app.models.checkpoint import MAX_BYTES
from pirf_app.ui.serving import lanes as lane
from pirf_app.ui.serving import own_models as own_module
from pirf_app.ui.serving import visitors as visitors_module
from pirf_app.ui.serving.lanes import Lanes, Line, queued
from pirf_app.ui.serving.own_models import take_upload


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


def events(count: int, name: str, log: list, work):
    for k in range(count):
        work()
        log.append(name)
        yield k


def test_a_sampler_gets_its_turns_while_a_training_goes_on():
    """However long a slice of the training may be: an event of either takes until the other one wants a turn."""
    lanes, log, taken, over = Lanes(), [], [], threading.Event()
    work = lambda: eventually(lambda: lanes.lane.waiting or over.is_set())  # noqa: E731

    def train():
        taken.extend(lanes.slices(events(40, "train", log, work), seconds=1e9))

    trainer = threading.Thread(target=train)
    trainer.start()
    assert list(lanes.steps(events(6, "sample", log, work))) == list(range(6))
    over.set()
    trainer.join()
    assert [k for part in taken for k in part] == list(range(40))
    first, end = log.index("sample"), len(log) - 1 - log[::-1].index("sample")
    assert log[first : end + 1] == 5 * ["sample", "train"] + ["sample"]


def test_a_slice_ends_in_time_and_tells_what_came_before_an_error(monkeypatch):
    lanes, clock = Lanes(), itertools.count()
    now = SimpleNamespace(seconds=0)
    monkeypatch.setattr(lane, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    work = lambda: setattr(now, "seconds", 3 * next(clock))  # noqa: E731
    sizes = [len(part) for part in lanes.slices(events(6, "", [], work), seconds=8)]
    assert sizes == [4, 2]

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


def test_a_visitor_s_model_is_one_more_method_for_them_alone(visitors, tuned):
    mine, yours = visitors.of("a").models, visitors.of("b").models
    model = mine.add(tuned, "attempt")
    assert model.method == "my:attempt"
    assert method_title(model.method) == "attempt"
    assert mine.methods("darcy") == ["base", "pirf", *GUIDANCE, "my:attempt"]
    assert yours.methods("darcy") == ["base", "pirf", *GUIDANCE]
    assert visitors.library("c") is visitors.shared
    result = last(compare(mine, "darcy", ["base", "pirf", "my:attempt"], 3, 1, 0))
    assert [r.method for r in result.results] == ["base", "pirf", "my:attempt"]
    assert torch.equal(*(torch.from_numpy(r.fields) for r in result.results[1:]))
    for method in ("my:attempt", "my:other"):
        with pytest.raises(InputError):
            last(compare(yours, "darcy", ["base", method], 3, 1, 0))
    assert mine.add(tuned, "Attempt").name == "Attempt-2"
    mine.remove("attempt")
    assert mine.methods("darcy") == ["base", "pirf", *GUIDANCE, "my:Attempt-2"]
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
    monkeypatch.setattr(visitors_module, "MAX_VISITORS", 2)
    folders = [visitors.of(name).folder for name in "abc"]
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_room_is_made_by_those_who_have_least_to_lose(visitors, tuned, monkeypatch):
    monkeypatch.setattr(visitors_module, "MAX_VISITORS", 3)
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


class Timers:
    """In place of `threading.Timer`, by a clock that a test sets."""

    def __init__(self):
        self.now, self.pending = 0.0, []

    def __call__(self, seconds: float, function) -> SimpleNamespace:
        timer = SimpleNamespace(due=self.now + seconds, function=function, start=lambda: self.pending.append(timer))
        timer.cancel = lambda: timer in self.pending and self.pending.remove(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.pending if timer.due <= self.now]:
            self.pending.remove(timer)
            timer.function()


def test_those_who_stay_away_are_forgotten_and_those_who_return_are_not(visitors, monkeypatch):
    timers = Timers()
    monkeypatch.setattr(visitors_module.threading, "Timer", timers)
    monkeypatch.setattr(visitors_module, "KEEP_SECONDS", 50)
    names = ("gone", "back", "sampling", "training", "at work")
    gone, back, sampling, training, at_work = (visitors.of(name) for name in names)
    for name in (*names, "late"):
        visitors.away(name)
    training.run = SimpleNamespace(going=True, stop=lambda: None)  # begun after the page had come back
    late = visitors.of("late")  # a handler that goes on after its page was closed makes nobody stay
    assert visitors.of("at work") is at_work
    for _ in range(8):
        timers.advance(10)
        assert visitors.of("back") is back
        assert visitors.library("sampling") is sampling.models
    kept = [visitor.folder.exists() for visitor in (gone, late, at_work, back, sampling, training)]
    assert kept == [False, False, False, True, True, True]
    training.run.going = False
    timers.advance(80)
    assert not training.folder.exists()
    assert not visitors._known


def test_the_sessions_remembered_are_not_ever_more(visitors, monkeypatch):
    monkeypatch.setattr(visitors_module, "CLOSED", 3)
    for number in range(9):
        visitors.away(str(number))
    assert len(visitors._closed) == 3


def test_a_model_that_is_being_read_keeps_nobody_waiting(visitors, tuned, monkeypatch):
    models = visitors.of("a").models
    model = models.add(tuned, "slow")
    asked, reading = [], threading.Event()

    def slow(*_):
        reading.set()
        other.join(20)
        return SimpleNamespace(info=model.info)

    other = threading.Thread(target=lambda: reading.wait(20) and asked.append(visitors.of("b")), daemon=True)
    other.start()
    monkeypatch.setattr(visitors_module, "load_checkpoint", slow)
    monkeypatch.setattr(own_module, "replace", lambda checkpoint, **_: checkpoint)
    models.load("darcy", model.method)
    assert asked == [visitors.of("b")]


def test_a_page_that_is_loaded_again_has_what_it_had(visitors, tuned):
    visitor = visitors.of("before")
    path = visitor.models.add(tuned).path
    visitor.run = SimpleNamespace(going=True, stopped=False, sample=3)
    visitor.run.stop = lambda: setattr(visitor.run, "stopped", True)
    assert visitors.rejoin("before", "after", 1.0) is visitor
    assert visitor.run.stopped
    assert visitor.run.sample == 0
    visitors.away("before")  # which comes late
    assert visitor.farewell is not None  # until the new page says something
    assert visitors.library("after") is visitor.models
    assert visitor.farewell is None
    assert path.exists()
    assert visitors.rejoin("nobody", "other", 2.0) is None
    visitors.of("owner").models.add(tuned)
    assert visitors.rejoin("after", "owner", 2.0) is None


def test_of_pages_loaded_in_a_row_the_last_one_has_the_visitor(visitors):
    visitor = visitors.of("first")
    assert visitors.rejoin("first", "third", 3.0) is visitor  # before the browser knew of "second"
    assert visitors.rejoin("first", "second", 2.0) is None  # which asks late
    assert visitors.known("second") is None
    assert visitors.known("third") is visitor
    assert visitors.rejoin("second", "fourth", 4.0) is None  # it never was that one
    assert visitors.rejoin("first", "fourth", 4.0) is visitor


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


def test_an_upload_is_checked_in_the_lane_and_left_to_those_who_may_share_it(visitors, tuned, tmp_path):
    models, lanes = visitors.of("a").models, Lanes()
    for name, content in (("mine", tuned.read_bytes()), ("broken", b"nonsense")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with nullcontext() if name == "mine" else pytest.raises(InputError, match="broken"):
            take_upload(str(path), models, lanes)
        assert path.exists()
    assert [model.name for model in models.mine()] == ["mine"]
    assert models.mine()[0].path.exists()


def test_two_gigabytes_are_refused_before_they_are_read(visitors, tmp_path, monkeypatch):
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as file:
        file.truncate(2 * 2**30)
    for module in (checkpoints, own_module):
        monkeypatch.setattr(module, "open", lambda *_: pytest.fail("it was read"), raising=False)
    monkeypatch.setattr(checkpoints, "safe_open", None)
    monkeypatch.setattr(own_module, "shutil", None)
    with pytest.raises(InputError, match=f"at most {MAX_BYTES // 10**6}"):
        visitors.of("a").models.add(path)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 41, "a\nb"])
def test_names_are_fit_for_files(visitors, tuned, name):
    if name:
        with pytest.raises(InputError, match="a name has"):
            visitors.of("a").models.add(tuned, name)
    else:
        assert visitors.of("a").models.add(tuned, name).name == "darcy-16-pirf"


@pytest.mark.parametrize(
    ("stem", "name"),
    [("my model (1)", "my model -1"), ("x" * 90, "x" * 40), (".hidden", "hidden"), ("a\nb", "a-b"), ("(...)", "model")],
)
def test_a_file_s_own_name_is_made_fit(visitors, tuned, tmp_path, stem, name):
    path = tmp_path / f"{stem}.safetensors"
    path.write_bytes(tuned.read_bytes())
    assert visitors.of("a").models.add(path).name == name


def test_there_are_limits_to_what_is_kept(visitors, tuned, monkeypatch):
    models = visitors.of("a").models
    monkeypatch.setattr(own_module, "MAX_MODELS", 2)
    models.add(tuned)
    models.add(tuned)
    with pytest.raises(InputError, match="remove one"):
        models.add(tuned)
    monkeypatch.setattr(visitors_module, "MAX_TOTAL", 1)
    with pytest.raises(InputError, match="no room"):
        visitors.of("b").models.add(tuned)
