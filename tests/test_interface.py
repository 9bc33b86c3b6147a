"""The library in a few names: what `import pirf_app as pirf` offers."""

import subprocess
import sys

import pytest
import torch

import pirf_app as pirf
from pirf_app.common.checks import InputError
from pirf_app.evaluation.figures import draw_fields
from pirf_app.models.library import Library
from pirf_app.training.events import TuningStep

QUICK = {"pool": 4, "batch": 4, "validation": 2, "chunk": 4, "pool_steps": (3,), "warmup": 1}


@pytest.fixture
def model(tiny_library, monkeypatch) -> pirf.Model:
    monkeypatch.setattr("pirf_app.interface.Library", lambda: tiny_library)
    return pirf.load("poisson", "base", 16)


def test_samples_are_those_of_every_other_way(model, tiny_library):
    fields = model.sample(n=2, steps=3, seed=4)
    expected, _ = draw_fields(tiny_library.load("poisson", "base", 16), 3, 2, 4)
    torch.testing.assert_close(fields, expected)
    assert (model.method, model.resolution, model.pde.name) == ("base", 16, "poisson")


def test_a_reward_of_ones_own_goes_up_and_the_inputs_stay(model):
    """Here a large solution: on samples that tuning has not seen, while the source is what it was."""
    reward = lambda fields: fields[:, 1].square().mean((1, 2)) * 1e4  # noqa: E731
    tuned = pirf.tune(model, updates=20, reward=reward, learning_rate=5e-3, drift=0.0, **QUICK)
    before, after = (one.sample(n=4, steps=3, seed=9) for one in (model, tuned))
    assert reward(after).mean() > 1.05 * reward(before).mean()
    moved = lambda channel: (after - before)[:, channel].norm() / before[:, channel].norm()  # noqa: E731
    assert moved(0) < moved(1)


def test_the_physics_reward_and_every_event_is_told(model):
    events = []
    tuned = pirf.tune(model, updates=3, progress=events.append, **QUICK)
    assert [event.update for event in events if isinstance(event, TuningStep)] == [0, 1, 2, 3]
    assert tuned.method == "pirf"
    assert model.method == "base"


def test_what_is_saved_comes_back_and_can_be_tuned_on(model, tmp_path):
    tuned = pirf.tune(model, updates=2, **QUICK)
    path = tmp_path / "mine.safetensors"
    assert len(tuned.save(path)) == 64
    again = pirf.load("poisson", path)
    torch.testing.assert_close(again.sample(n=1, steps=3), tuned.sample(n=1, steps=3), rtol=1e-2, atol=1e-2)
    assert pirf.tune(again, updates=1, **QUICK).method == "pirf"


@pytest.mark.parametrize(
    "reward", [lambda f: f.sum(), lambda f: f[:, 0], lambda f: 3.0, lambda f: f.sum((1, 2, 3)) / 0]
)
def test_a_reward_that_is_none_is_refused(model, reward):
    with pytest.raises(InputError, match="one finite number a sample"):
        pirf.tune(model, updates=1, reward=reward, **QUICK)


def test_bad_requests_are_refused_in_a_sentence(model, tmp_path):
    for call in (
        lambda: pirf.load("stokes"),
        lambda: pirf.load("poisson", "magic"),
        lambda: pirf.residual("poisson", torch.zeros(2, 3, 8, 8)),
        lambda: model.sample(n=0),
        lambda: model.sample(steps=1),
        lambda: model.sample(seed=-1),
        lambda: model.save(tmp_path / "model.pt"),
        lambda: model.save(tmp_path / "nowhere" / "model.safetensors"),
        lambda: pirf.tune(model, magic=3),
        lambda: pirf.tune(model, updates=0),
    ):
        with pytest.raises(InputError, match=r"^[^\n]+$"):
            call()


def test_importing_the_package_does_not_import_torch():
    """Torch takes seconds; how its threads wait has to be said before."""
    code = "import sys, pirf_app; assert 'torch' not in sys.modules; pirf_app.load; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    with pytest.raises(AttributeError):
        pirf.nothing  # noqa: B018


def test_the_bundled_models_are_there():
    assert pirf.load("poisson", resolution=64).method == "pirf"
    assert set(pirf.pde_names()) >= {entry["pde"] for entry in Library().manifest()}
