"""A Space's shared GPU: what runs in a task that it is lent for is what runs here."""

import importlib
import itertools
import pickle
import sys
import threading
import types
from dataclasses import asdict, replace

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import REPO
from huggingface_hub import constants

from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.evaluation import comparison as cmp
from pirf_app.methods.pirf import PirfConfig, PirfTuning
from pirf_app.models.checkpoint import load_checkpoint
from pirf_app.training.events import DivergedError, TuningStep
from pirf_app.ui.page import build
from pirf_app.ui.serving import gpu, gpu_training
from pirf_app.ui.serving.lanes import Lanes
from pirf_app.ui.train.history import History
from pirf_app.ui.train.prepare import prepare
from pirf_app.ui.train.recipes import Recipes

QUICK = PirfConfig(updates=4, pool=4, batch=2, validation=2, validate_every=1, pool_steps=(3,), warmup=1)


@pytest.fixture
def lent(monkeypatch):
    """`spaces` as on a Space with a shared GPU: what goes to a task and what comes back is pickled, and an exception
    arrives without its words. Its `asked` are the seconds that were asked for."""
    asked = []

    def decorator(duration):
        def decorate(task):
            def handler(*arguments):
                asked.append(duration(*arguments))
                try:
                    for result in task(*pickle.loads(pickle.dumps(arguments))):
                        yield pickle.loads(pickle.dumps(result))
                except Exception as error:
                    raise RuntimeError(type(error).__name__) from None

            return handler

        return decorate

    stub = types.SimpleNamespace(GPU=lambda duration: decorator(duration), asked=asked)
    monkeypatch.setitem(sys.modules, "spaces", stub)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    yield stub
    monkeypatch.undo()
    importlib.reload(gpu)


@pytest.fixture
def lent_training(lent):
    """`gpu_training` on a shared GPU."""
    importlib.reload(gpu)
    yield importlib.reload(gpu_training)
    sys.modules.pop("spaces")
    importlib.reload(gpu)
    importlib.reload(gpu_training)


def test_sampling_on_a_shared_gpu_is_sampling(tiny_library, lent):
    task = importlib.reload(gpu)
    settings = cmp.check_settings(tiny_library, "darcy", ["base", "pirf", *GUIDANCE], 3, 2, 7)
    *previews, result = task.run(tiny_library, settings)
    *expected, same = cmp.run(tiny_library, settings)
    assert [(p.method, p.step) for p in previews] == [(p.method, p.step) for p in expected]
    for ours, theirs in zip(result.results, same.results, strict=True):
        np.testing.assert_array_equal(ours.fields, theirs.fields)
    assert lent.asked == [task.START + 1]
    many = cmp.check_settings(tiny_library, "darcy", ["base", "pirf"], 80, 8, 7)
    assert lent.asked[0] < task.START + task.sampling_seconds(many, *cmp.models(tiny_library, many)) < task.LONGEST


def test_models_of_the_hub_come_before_the_page(published, tiny_library, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "spaces", object())
    monkeypatch.setenv("PIRF_MODEL_REPO", REPO)
    for fault in (None, 503):
        if fault:
            published.fault("/api/", status=fault)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
        build(tiny_library, tmp_path / "missing.npz")
        for thread in threading.enumerate():
            if thread.name == "models":
                thread.join(30)  # it has told that it is done
                assert not thread.is_alive()


def test_what_is_wrong_is_said_across_a_shared_gpu(tiny_library, lent):
    task = importlib.reload(gpu)
    settings = cmp.check_settings(tiny_library, "darcy", ["base"], 2, 1, 0)

    @task.on_gpu(lambda *_: 1)
    def refusing(_):
        yield 1
        raise InputError("one sentence")

    run = refusing(settings)
    assert next(run) == 1
    with pytest.raises(InputError, match="one sentence"):
        next(run)


def test_training_on_a_shared_gpu_is_training(tiny_library, lent_training, lent, tmp_path):
    base = tiny_library.load("darcy", "base", 16)
    before = {k: v.clone() for k, v in base.denoiser.state_dict().items()}
    alone = PirfTuning(base, QUICK)
    expected = [replace(event, seconds=0) for event in alone.run()]
    run = PirfTuning(base, QUICK)
    assert [replace(event, seconds=0) for event in lent_training.events(run)] == expected
    assert len(lent.asked) == 1
    assert gpu.START < lent.asked[0] < gpu.LONGEST
    run.export(tmp_path / "tuned.safetensors")
    assert load_checkpoint(tmp_path / "tuned.safetensors", tiny_library.find_parent).info.parent == base.sha256
    assert all(torch.equal(v, before[k]) for k, v in base.denoiser.state_dict().items())
    for mine, theirs in zip(run.average, alone.average, strict=True):
        assert torch.equal(mine, theirs)


def test_a_long_run_on_a_shared_gpu_is_several_tasks_and_stops_at_what_was_kept(
    tiny_library, lent_training, lent, monkeypatch
):
    base = tiny_library.load("darcy", "base", 16)
    alone = PirfTuning(base, QUICK)
    done = list(alone.run())
    ticks = itertools.count()
    monkeypatch.setattr(lent_training, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    for name in ("WORK_SECONDS", "LEAST_SECONDS"):
        monkeypatch.setattr(lent_training, name, 6)  # that is, events
    run = PirfTuning(base, QUICK)
    assert len(list(lent_training.events(run))) >= len(done)
    assert len(lent.asked) > 1
    assert all(torch.equal(*pair) for pair in zip(run.average, alone.average, strict=True))

    monkeypatch.setattr(lent_training, "KEEP_SECONDS", 2)
    for name in ("WORK_SECONDS", "LEAST_SECONDS"):
        monkeypatch.setattr(lent_training, name, 1000)
    stopped, history = PirfTuning(base, QUICK), History("", QUICK.updates)
    events = lent_training.events(stopped)
    for event in events:
        if isinstance(event, TuningStep):
            history.add(event)
            if event.update == 3:
                break
    events.close()
    assert 0 < stopped.update < 3  # what comes after the last state that was kept is lost, and repeated
    for event in lent_training.events(stopped):
        if isinstance(event, TuningStep):
            history.add(event)
    assert [step.update for step in history.steps] == list(range(QUICK.updates + 1))
    assert all(torch.equal(*pair) for pair in zip(stopped.average, alone.average, strict=True))


def test_a_run_that_diverges_on_a_shared_gpu_says_so_and_keeps_its_last_finite_state(tiny_library, lent_training):
    base = tiny_library.load("darcy", "base", 16)
    config = replace(QUICK, updates=50, validate_every=50, learning_rate=1e30)
    run, alone = PirfTuning(base, config), PirfTuning(base, config)
    for events in (lent_training.events(run), alone.run()):
        with pytest.raises(DivergedError, match="lower learning rate"):
            list(events)
    assert run.update == alone.update
    assert all(torch.equal(*pair) for pair in zip(run.average, alone.average, strict=True))


class Refusing:
    """Lends a GPU so many times."""

    def __init__(self, times: int, real):
        self.times, self.real = times, real

    def __call__(self, duration):
        def decorate(task):
            lent = self.real(duration)(task)

            def handler(*arguments):
                self.times -= 1
                if self.times < 0:
                    raise gr.Error('You have exceeded your GPU quota. <a href="x">Subscribe</a>')
                yield from lent(*arguments)

            return handler

        return decorate


def test_why_no_gpu_was_lent_is_told(tiny_library, lent, monkeypatch):
    monkeypatch.setattr(lent, "GPU", Refusing(0, lent.GPU))
    task = importlib.reload(gpu)
    settings = cmp.check_settings(tiny_library, "darcy", ["base"], 2, 1, 0)
    with pytest.raises(InputError, match=r"^You have exceeded your GPU quota. Subscribe$"):
        cmp.last(task.run(tiny_library, settings))


def test_a_run_that_gets_no_more_gpu_is_stopped_with_the_reason_and_can_go_on(visitors, lent, monkeypatch, request):
    refusing = Refusing(1, lent.GPU)
    monkeypatch.setattr(lent, "GPU", refusing)
    training = request.getfixturevalue("lent_training")
    ticks = itertools.count()
    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    for name in ("WORK_SECONDS", "LEAST_SECONDS"):
        monkeypatch.setattr(training, name, 9)  # events: into the updates, not to the end
    lanes, visitor = Lanes(), visitors.of("a")
    values = asdict(QUICK) | {"pool_steps": "3", "updates": 6, "validate_every": 2}
    run = prepare(visitor, Recipes(lanes), "darcy", "base", "pirf", values)
    list(run.work(lanes))
    run.finish(lanes, visitor.models)
    assert run.phase == "stopped"
    assert "quota" in run.message
    assert run.resumable
    kept = run.history.done
    assert kept < 6
    refusing.times = 100
    assert run.again()
    list(run.work(lanes))
    run.finish(lanes, visitor.models)
    assert run.phase == "complete"
    assert run.message == ""
    assert [step.update for step in run.history.steps] == list(range(7))


def test_who_goes_away_does_not_wait_for_the_task(lent):
    task, go, ended = importlib.reload(gpu), threading.Event(), threading.Event()

    @task.on_gpu(lambda: 1)
    def slow():
        yield 1
        go.wait(30)
        ended.set()

    events = slow()
    assert next(events) == 1
    events.close()
    assert not ended.is_set()
    go.set()
    assert ended.wait(30)


def test_on_other_hardware_the_package_changes_nothing(lent, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert importlib.reload(gpu).spaces is None
