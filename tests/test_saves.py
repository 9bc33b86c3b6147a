"""When a training run is saved: the result before the state, on a full disk, and at a signal."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from terminal import run
from test_files import little_room

from pirf_app.cli import finetune
from pirf_app.common import files
from pirf_app.common.files import unwritable
from pirf_app.methods.registry import METHODS
from pirf_app.models.checkpoint import load_checkpoint, read_info
from pirf_app.models.library import Library
from pirf_app.training import run_state
from pirf_app.training.pretraining import Pretraining
from pirf_app.training.run_state import Saves, StoppedError, load_run

pytestmark = pytest.mark.usefixtures("quick_data", "small_models")
TUNE = ["finetune", "--pde", "poisson", "--pool", 8, "--batch", 4, "--validation", 2, "--pool-steps", 3, "--updates", 4]
TRAIN = ["pretrain", "--pde", "poisson", "--resolution", 16, "--channels", 8, "--multipliers", "1,2", "--prior-box", 0]
TRAIN += ["--batch", 4, "--samples", 16]
RUNS = {"pretrain": TRAIN} | {name: [*TUNE, "--method", name] for name in METHODS}
every_run = pytest.mark.parametrize("kind", RUNS)
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}


def full(path, *_, **__):
    raise unwritable(path, OSError(28, "No space left on device"))


@pytest.fixture
def no_room_for(monkeypatch):
    """No file whose name ends so can be written any more."""

    def choose(ending: str) -> None:
        real = files.replacing
        limited = lambda path: full(path) if str(path).endswith(ending) else real(path)  # noqa: E731
        monkeypatch.setattr("pirf_app.common.tensor_file.replacing", limited)

    return choose


@every_run
def test_a_result_is_there_although_the_state_does_not_fit(kind, no_room_for, capsys):
    no_room_for(".state")
    assert run(*RUNS[kind], "--out", "my.safetensors") == 2
    out, error = capsys.readouterr()
    assert "wrote my.safetensors" in out
    last = error.splitlines()[-1]
    assert "my.state cannot be written (No space left on device); the result was written" in last
    assert os.listdir() == ["my.safetensors"]
    assert read_info("my.safetensors").recipe["updates"] == 4


@every_run
def test_a_state_is_there_although_the_result_does_not_fit(kind, no_room_for, capsys):
    no_room_for(".safetensors")
    assert run(*RUNS[kind], "--out", "my.safetensors") == 2
    assert "my.safetensors cannot be written" in capsys.readouterr().err.splitlines()[-1]
    assert os.listdir() == ["my.state"]


def test_nothing_fits(capsys):
    """Really: both are larger than a file may be."""
    with little_room():
        assert run(*TRAIN, "--out", "my.safetensors") == 2
    error = capsys.readouterr().err.splitlines()
    assert "my.state cannot be written (File too large)" in error[-2]
    assert error[-1] == "Error: my.safetensors cannot be written (File too large)"
    assert os.listdir() == []


class Run:
    """Of so many events, whose state is the number of the last one; some saves fail, and some events send a signal."""

    workers = SimpleNamespace(main=True)

    def __init__(self, events: int, failing: tuple = (), signals: dict | None = None):
        self.total, self.failing, self.signals, self.saves, self.event = events, failing, signals or {}, 0, 0

    def run(self):
        for event in range(1, self.total + 1):
            for number in self.signals.get(event, ()):
                signal.raise_signal(number)
            self.event = event
            yield event

    def save(self, path) -> None:
        self.saves += 1
        if self.saves in self.failing:
            full(path)
        path.write_text(str(self.event))


def worked(run: Run, state, interval: float, work=lambda event: None) -> None:
    """Does `work` with every event of a run; no save may fail."""
    with Saves(run, state, interval, pytest.fail) as saves:
        for event in saves.events():
            work(event)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr(run_state, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def test_a_save_that_fails_is_told_once_and_the_run_goes_on(clock, tmp_path):
    state, told, kept = tmp_path / "a.state", [], []
    with Saves(Run(8, failing=(2, 3, 5)), state, 10, told.append) as saves:
        for _ in saves.events():
            kept.append(state.read_text() if state.exists() else None)
            clock.now += 10
    assert kept == [None, "1", "1", "1", "4", "4", "6", "7"]  # the state of before stays where the next one failed
    assert told == 2 * [f"{state} cannot be written (No space left on device); the run goes on, and tries again"]
    assert state.read_text() == "8"


def test_a_state_is_saved_when_it_is_time_and_at_the_end(clock, tmp_path):
    state, run = tmp_path / "a.state", Run(9)
    worked(run, state, 10, lambda _: setattr(clock, "now", clock.now + 4))
    assert run.saves == 3 + 1
    with pytest.raises(ZeroDivisionError):
        worked(Run(3), state, 10, lambda event: 1 / (event - 2))
    assert state.read_text() == "2"


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
def test_a_signal_ends_a_run_after_the_event_at_work(number, tmp_path):
    state, seen, before = tmp_path / "a.state", [], signal.getsignal(number)
    with pytest.raises(StoppedError, match="a.state keeps the run") as stop:
        worked(Run(9, signals={3: (number,)}), state, 1e9, seen.append)
    assert stop.value.number == number
    assert (seen, state.read_text()) == ([1, 2, 3], "3")
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("signals", "kept"), [({1: (15,)}, "0"), ({3: (15, 15)}, "2"), ({3: (2, 15)}, "2")])
def test_a_signal_is_obeyed_at_once_before_the_first_event_and_when_it_comes_again(signals, kept, tmp_path):
    state = tmp_path / "a.state"
    with pytest.raises(StoppedError):
        worked(Run(9, signals=signals), state, 1e9)
    assert state.read_text() == kept


def test_a_signal_does_not_break_off_the_result_or_the_last_save(tmp_path):
    run, done = Run(2), []
    save = run.save
    run.save = lambda path: (signal.raise_signal(signal.SIGTERM), save(path))
    with Saves(run, tmp_path / "a.state", 1e9, pytest.fail) as saves:
        done += saves.events()
        done.append("result")
    assert done == [1, 2, "result"]
    assert (tmp_path / "a.state").read_text() == "2"


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As of a command in the background, which Ctrl-C is not meant for."""
    before, seen = signal.signal(signal.SIGINT, signal.SIG_IGN), []
    try:
        worked(Run(9, signals={3: (signal.SIGINT,)}), tmp_path / "a.state", 1e9, seen.append)
        assert len(seen) == 9
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS)
def test_a_run_that_was_ended_goes_on_to_the_same_bits(number, folder, monkeypatch, capsys):
    assert run(*TUNE, "--out", "whole.safetensors", "--log", "whole.jsonl") == 0
    record = finetune.record

    def ended(writers, event):
        record(writers, event)
        if getattr(event, "update", 0) == 2:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "record", ended)
        assert run(*TUNE, "--out", "my.safetensors", "--log", "my.jsonl") == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == "stopped: my.state keeps the run, which goes on with --resume"
    assert sorted(os.listdir()) == ["my.jsonl", "my.state", "whole.jsonl", "whole.safetensors", "whole.state"]
    assert load_run("my.state")[2]["update"] == 2
    assert run(*TUNE, "--out", "my.safetensors", "--log", "my.jsonl", "--resume") == 0
    whole, mine = (load_checkpoint(f"{name}.safetensors", Library(folder).find_parent) for name in ("whole", "my"))
    assert all(map(torch.equal, whole.denoiser.parameters(), mine.denoiser.parameters()))
    assert events_in("my.jsonl") == events_in("whole.jsonl")


def events_in(log: str) -> list[dict]:
    with open(log) as file:
        return [json.loads(line) | {"seconds": 0} for line in file]


def test_pretraining_that_was_ended_keeps_its_state(monkeypatch, capsys):
    real = Pretraining._average

    def ended(self):
        real(self)
        if self.update == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Pretraining, "_average", ended)
    assert run(*TRAIN, "--out", "my.safetensors") == 143
    assert "my.state keeps the run" in capsys.readouterr().err
    assert os.listdir() == ["my.state"]
    assert load_run("my.state")[2]["update"] == 2


def test_a_log_that_does_not_fit_is_told_once_and_the_run_goes_on(capsys):
    """By a log on a device that is always full."""
    os.symlink("/dev/full", "events.jsonl")
    assert run(*TUNE, "--out", "my.safetensors", "--log", "events.jsonl") == 0
    error = capsys.readouterr().err
    assert error.count("events.jsonl cannot be written (No space left on device); the run goes on") == 1
    assert read_info("my.safetensors").recipe["updates"] == 4


def test_a_log_is_cut_to_what_the_state_knows_of():
    assert run(*TUNE, "--out", "my.safetensors", "--log", "my.jsonl") == 0
    with open("my.jsonl") as file:
        lines = file.readlines()
    with open("my.jsonl", "a") as file:
        file.write("half a li")
    assert run(*TUNE, "--out", "my.safetensors", "--log", "my.jsonl", "--resume") == 0
    with open("my.jsonl") as file:
        assert file.readlines() == lines
