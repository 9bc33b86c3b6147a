"""Runs of every fine-tuning method: their events, that they can be stopped, resumed and repeated, how they end."""

import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from pde_data import every_pde
from tiny_runs import SMALL, SMALL_OF, STEPS, every_method, same, tiny_base, tiny_run, updates_of, weights_of

from pirf_app.diffusion.sampler import initial_noise
from pirf_app.methods.pidm import PidmTuning
from pirf_app.methods.pirf import PirfConfig, PirfTuning
from pirf_app.methods.registry import METHODS
from pirf_app.models.checkpoint import InputError, load_checkpoint, read_info
from pirf_app.models.library import Library
from pirf_app.training.events import DivergedError, PoolStep, TuningStep, Working

pytestmark = pytest.mark.usefixtures("quick_data")


@every_method
@every_pde
def test_events(name, method):
    events = list(tiny_run(method, tiny_base(name)).run())
    pool = [e for e in events if isinstance(e, PoolStep)]
    steps = [e for e in events if isinstance(e, TuningStep)]
    assert pool + steps == [e for e in events if not isinstance(e, Working)]
    assert pool
    assert all(0 <= e.done <= e.total for e in pool)
    assert [e.update for e in steps] == list(range(5))
    assert [e.update for e in steps if e.validation_residual is not None] == [0, 2, 4]
    assert all(torch.tensor([e.loss, e.residual_rms, e.anchor, e.drift]).isfinite().all() for e in steps)
    seconds = [e.seconds for e in steps]
    assert seconds == sorted(seconds)


@every_method
def test_same_seed_same_result_and_another_seed_another(method):
    runs = [tiny_run(method, seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        list(run.run())
    assert same(weights_of(runs[0]), weights_of(runs[1]))
    assert not same(weights_of(runs[0]), weights_of(runs[2]))


@every_method
@pytest.mark.parametrize("stop_after", ["pool", 2])
def test_stop_and_resume_gives_the_same_result(tmp_path, stop_after, method):
    changes = {"pool_steps": (STEPS, 6), "last_steps": 2}
    straight, broken = (tiny_run(method, **changes) for _ in range(2))
    list(straight.run())
    events = broken.run()
    for event in events:
        if stop_after == "pool" or (isinstance(event, TuningStep) and event.update == stop_after):
            break
    events.close()
    broken.save(tmp_path / "run.state")
    resumed = type(broken).load(tiny_base(), tmp_path / "run.state")
    assert resumed.config == broken.config
    assert resumed.drawn().keys() == broken.drawn().keys()
    assert same(*(list(run.drawn().values()) for run in (broken, resumed)))
    rest = updates_of(resumed)
    assert rest[0].update == (1 if stop_after == "pool" else 3)
    assert same(weights_of(straight), weights_of(resumed))
    assert straight.export(tmp_path / "a.safetensors") == resumed.export(tmp_path / "b.safetensors")


@every_method
def test_a_finished_run_has_nothing_left_to_do(tmp_path, method):
    run = tiny_run(method, updates=2)
    list(run.run())
    run.save(tmp_path / "run.state")
    resumed = type(run).load(tiny_base(), tmp_path / "run.state")
    assert updates_of(resumed) == []
    assert same(weights_of(run), weights_of(resumed))


def test_a_run_belongs_to_its_base(tmp_path):
    run = PirfTuning(tiny_base(), SMALL)
    run.save(tmp_path / "run.state")
    with pytest.raises(ValueError, match="base"):
        PirfTuning.load(replace(tiny_base(), sha256="cd" * 32), tmp_path / "run.state")
    with pytest.raises(ValueError, match="method 'pirf'"):
        PidmTuning.load(tiny_base(), tmp_path / "run.state")


@every_method
def test_whoever_listens_keeps_its_gradients(method):
    """An event generator must not leave its no-gradient mode switched on for the caller between two events."""
    for _ in tiny_run(method, updates=2).run():
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@every_method
def test_export_and_load(tmp_path, method):
    base = tiny_base()
    run = tiny_run(method, base)
    list(run.run())
    path = tmp_path / "tuned.safetensors"
    sha256 = run.export(path, {"residual_rms": 2.0})
    info = read_info(path)
    assert (info.method, info.parent, info.figures) == (method, base.sha256, {"residual_rms": 2.0})
    assert info.recipe["config"] == asdict(run.config) | {"pool_steps": list(SMALL.pool_steps)}
    loaded = load_checkpoint(path, lambda sha: base, sha256)
    x, sigma = initial_noise(2, (2, 16, 16), 0), torch.tensor(run.model.handover)
    expected, found = run.result()(x, sigma), loaded.denoiser(x, sigma)
    assert (found - expected).norm() < 2e-3 * expected.norm()


@every_method
def test_divergence_is_reported_and_leaves_finite_weights(method):
    run = tiny_run(method, updates=20, warmup=1, learning_rate=1e15, clip=1e30)
    with pytest.raises(DivergedError, match=r"^[^\n]+$"):
        list(run.run())
    assert all(p.isfinite().all() for p in run.result().parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 0}, {"updates": -1}, {"pool": 0}, {"batch": 0}, {"validation": 0}, {"warmup": 0},
        {"last_steps": 0}, {"last_steps": STEPS}, {"last_steps": 99}, {"pool_steps": ()}, {"pool_steps": (1,)},
        {"pool_steps": 10}, {"trainable": ["last"]},
        {"trainable": "encoder"}, {"norm": "l7"}, {"learning_rate": float("nan")}, {"learning_rate": -1.0},
        {"error_weight": -1.0}, {"hold": -1.0}, {"drift": float("inf")}, {"clip": 0.0}, {"ema": 1.5}, {"seed": -1},
        {"seed": 2**63}, {"residual_weight": -1.0}, {"residual_weight": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_bad_recipes_are_refused_in_one_sentence(changes):
    recipes = [recipe for recipe in SMALL_OF.values() if hasattr(recipe, *changes)]
    assert recipes
    for recipe in recipes:
        with pytest.raises(InputError, match=r"^[^\n]+$"):
            replace(recipe, **changes)


@every_method
def test_largest_seed_works(method):
    assert updates_of(tiny_run(method, updates=1, seed=2**63 - 1))


TUNING = """
import torch
from tiny_runs import METHODS, tiny_base, tiny_run, updates_of

for layout in (torch.contiguous_format, torch.channels_last):
    for autocast in (False, True):
        base = tiny_base()
        base.denoiser.autocast = autocast
        base.denoiser.to(memory_format=layout)
        for method in METHODS:
            assert len(updates_of(tiny_run(method, base, updates=3, trainable="highres"))) == 3
            print(layout, autocast, method, flush=True)
"""


def test_tuning_does_not_crash_the_process(request):
    """torch 2.13 on CPU dies in the backward pass of a partly frozen network in channels_last layout."""
    paths = os.pathsep.join(map(str, (request.config.rootpath, request.path.parent)))
    run = subprocess.run(
        [sys.executable, "-c", TUNING],
        capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr or f"no message: the process crashed after\n{run.stdout or 'nothing'}"
    assert len(run.stdout.splitlines()) == 4 * len(METHODS)


@pytest.mark.slow
@pytest.mark.skipif(not Library().manifest(), reason="no checkpoints are bundled yet")
@every_pde
def test_tuning_a_bundled_model_improves_what_the_reward_never_saw(name):
    run = PirfTuning(Library().load(name, "base"), PirfConfig(updates=100, pool=64, validate_every=5, validation=16))
    checks = [e for e in updates_of(run) if e.validation_residual is not None]
    assert checks[-1].validation_residual < 0.9 * checks[0].validation_residual
    assert checks[-1].validation_solve_error < 1.05 * checks[0].validation_solve_error
