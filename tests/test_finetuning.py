"""Runs as the page and the command line make them: where they start, what they keep, how they go on."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import SLOW, SMALL, STEPS, every_method, same, tiny_base, tiny_run, updates_of, weights_of

from pirf_app.diffusion.network import UNet
from pirf_app.diffusion.sampler import initial_noise, sample
from pirf_app.evaluation.figures import residual_rms
from pirf_app.methods.pirf import PirfTuning
from pirf_app.methods.presets import preset
from pirf_app.models.checkpoint import Checkpoint, InputError, load_checkpoint
from pirf_app.training import tuning
from pirf_app.training.config import BEST_BY
from pirf_app.training.events import DivergedError, PoolStep, TuningStep, Working
from pirf_app.training.run_state import load_run, save_run

pytestmark = pytest.mark.usefixtures("quick_data")


def steps_of(run: PirfTuning) -> list[TuningStep]:
    return [event for event in run.run() if isinstance(event, TuningStep)]


def test_a_run_says_at_once_that_it_lives_and_starts_its_curves_at_the_baseline():
    base = tiny_base(noise=0.02)
    run = PirfTuning(base, replace(SMALL, validation=6))
    events = list(run.run())
    assert isinstance(events[0], PoolStep)
    assert (events[0].done, events[0].total) == (0, 18)
    assert [e.done for e in events if isinstance(e, PoolStep)][-1] == 18
    first = next(e for e in events if isinstance(e, TuningStep))
    samples = run.pde.denormalise(run.validation.sample[STEPS])
    assert (first.update, first.drift, first.learning_rate, first.warning) == (0, 0, 0, None)
    assert first.loss == pytest.approx(2, rel=0.3)
    assert first.anchor == pytest.approx(0, abs=1e-8)
    expected = residual_rms(run.pde, samples).square().mean().sqrt().item()
    assert first.validation_residual == pytest.approx(expected, rel=1e-3)
    assert first.validation_solve_error == pytest.approx(run.pde.solve_error(samples).quantile(0.5).item(), rel=1e-3)


def test_the_held_out_trajectories_are_the_base_models_samples():
    run = PirfTuning(tiny_base(), SMALL)
    list(run.run())
    before, after = run.preview(3)
    assert before.shape == after.shape == (3, 2, 16, 16)
    torch.testing.assert_close(before, run.pde.denormalise(run.validation.sample[STEPS][:3]))
    assert not torch.equal(before, after)
    x = run.validation.x[STEPS][:3]
    with torch.no_grad():
        torch.testing.assert_close(after, run.pde.denormalise(run.result()(x, torch.tensor(run.model.handover))))


def test_there_is_nothing_to_show_before_it_is_drawn():
    assert PirfTuning(tiny_base(), SMALL).preview() is None


@every_method
def test_long_steps_are_cut_into_pieces_that_change_nothing(method):
    """Events come between the pieces, and the result is that of the whole."""
    whole, pieces = (tiny_run(method, chunk=n) for n in (12, 2))
    assert not any(isinstance(e, Working) for e in whole.run())
    events = list(pieces.run())
    at = [e for e in events if isinstance(e, Working) and e.update == 1]
    assert [(e.done, e.total) for e in at] == [(2, 6), (4, 6)]
    one, other, start = (torch.cat([p.flatten() for p in w]) for w in (whole.average, pieces.average, whole.start))
    assert (one - other).norm() < 0.02 * (one - start).norm()  # Adam makes much of the rounding of small gradients


def test_seconds_leave_out_what_the_listener_does(monkeypatch):
    """By a clock that ticks once for every evaluation of a network, and for a long time in between."""
    run, clock = PirfTuning(tiny_base(), replace(SMALL, updates=2)), SimpleNamespace(now=0.0, ticks=0)

    def tick(module, *_):
        if isinstance(module, UNet):
            clock.now, clock.ticks = clock.now + 1, clock.ticks + 1

    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    with torch.nn.modules.module.register_module_forward_hook(tick):
        for event in run.run():
            assert event.seconds == clock.ticks
            clock.now += 1000
    assert run.seconds == clock.ticks > 0


@pytest.mark.parametrize("best_by", BEST_BY)
def test_the_best_state_is_kept_beside_the_last(best_by, tmp_path):
    run = PirfTuning(tiny_base(), replace(SMALL, updates=6, validate_every=1, learning_rate=0.05, best_by=best_by))
    kept, checks = {}, []
    for event in run.run():
        if isinstance(event, TuningStep) and event.update:
            kept[event.update] = [p.clone() for p in run.average]
            checks.append((getattr(event, best_by), event.update))
    best = min(checks)[1]
    assert run.checks["best"]["update"] == best
    assert same(run.best, kept[best])
    tuned = dict(run.result("best").expert.named_parameters())
    tuned = [tuned[name] for name, p in run.model.expert.named_parameters() if p.requires_grad]
    assert same(tuned, kept[best])
    run.export(tmp_path / "best.safetensors", which="best")
    info = load_checkpoint(tmp_path / "best.safetensors", lambda _: run.base).info
    assert info.recipe["state"] == "best"
    assert info.recipe["checks"]["best"]["update"] == best


@pytest.mark.parametrize("which", ["best", "worst", ""])
def test_states_that_are_not_there(which):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        PirfTuning(tiny_base(), SMALL).result(which)


def test_nothing_is_written_before_the_first_update(tmp_path):
    with pytest.raises(InputError, match="nothing has been tuned"):
        PirfTuning(tiny_base(), SMALL).export(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@every_method
@pytest.mark.parametrize("late", [1, 3])
def test_a_diverged_run_holds_the_last_weights_whose_loss_was_finite(late, method):
    run, seen = tiny_run(method, updates=20, validate_every=100), {}

    def watched():
        for event in run.run():
            if isinstance(event, TuningStep):
                seen[event.update] = weights_of(run)
                if event.update == late:
                    with torch.no_grad():  # as a step that was far too long leaves them
                        for parameter in run.parameters:
                            parameter.mul_(1e25)

    with pytest.raises(DivergedError, match=r"^[^\n]+lower learning rate$") as caught:
        watched()
    assert f"update {late + 1}" in str(caught.value)
    assert run.update == late - 1
    assert same(weights_of(run), seen[late - 1])


def test_a_last_step_too_far_is_taken_back():
    run = PirfTuning(tiny_base(), replace(SMALL, updates=1, warmup=1, learning_rate=1e25, clip=1e30))
    with pytest.raises(DivergedError):
        list(run.run())
    assert same(run.average, run.start)


def test_a_gain_that_is_none_is_said_in_words():
    run = PirfTuning(tiny_base(), replace(SMALL, validate_every=1))
    list(run.run())
    row = run.checks["start"]
    worse = {"residual_rms": row["residual_rms"] * 2, "solve_error_median": row["solve_error_median"] / 2}
    run.checks["start"] = row | worse | {"second_residual_rms": math.inf}
    run.config = replace(run.config, updates=run.config.updates + 1)
    (event,) = updates_of(run)
    assert event.warning == "residual falls while forward-solve error rises"
    assert event.validation_residual < worse["residual_rms"]


def tuned_checkpoint(tmp_path, **changes) -> Checkpoint:
    base = tiny_base(noise=0.02)
    run = PirfTuning(base, replace(SMALL, learning_rate=1e-2, **changes))
    list(run.run())
    run.export(tmp_path / "own.safetensors")
    return load_checkpoint(tmp_path / "own.safetensors", lambda _: base)


def test_a_run_goes_on_from_a_tuned_checkpoint(tmp_path):
    own = tuned_checkpoint(tmp_path)
    run = PirfTuning(own, replace(SMALL, seed=1))
    events = steps_of(run)
    noise = initial_noise(4, (2, 16, 16), 5)
    started = PirfTuning(own, SMALL).result()
    assert torch.equal(*(sample(model, noise, run.schedule(STEPS))[0] for model in (own.denoiser, started)))
    assert events[0].anchor > 0  # against what the base model makes, so that inputs cannot creep from run to run
    assert events[1].drift == 0  # against the weights that it started from
    assert run.result().base is own.denoiser.base
    run.export(tmp_path / "again.safetensors")
    again = load_checkpoint(tmp_path / "again.safetensors", lambda _: tiny_base(noise=0.02))
    assert again.info.parent == own.info.parent != own.sha256
    assert again.info.recipe["began_with"] == own.sha256
    run.save(tmp_path / "run.state")
    assert same(weights_of(PirfTuning.load(own, tmp_path / "run.state")), weights_of(run))
    with pytest.raises(InputError, match="another base"):
        PirfTuning.load(tiny_base(noise=0.02), tmp_path / "run.state")


def test_a_run_from_a_tuned_checkpoint_keeps_its_handover(tmp_path):
    own = tuned_checkpoint(tmp_path, last_steps=2)
    with pytest.raises(InputError, match="last_steps"):
        PirfTuning(own, SMALL)
    assert preset("30s", own, SLOW).last_steps == 2
    PirfTuning(own, preset("30s", own, SLOW))


@every_method
def test_an_interrupted_drawing_or_validation_goes_on_where_it_was(tmp_path, method):
    """A state saved in the middle of the drawing, of an update or of a validation leads to the same end and events."""
    changes = {"chunk": 2, "pool_steps": (STEPS, 5), "last_steps": 2, "updates": 2, "validate_every": 1}
    straight = tiny_run(method, **changes)
    whole = [replace(event, seconds=0.0) for event in straight.run()]
    for stop in (6, len(whole) // 2, len(whole) - 3):
        broken = tiny_run(method, **changes)
        events = broken.run()
        before = [replace(next(events), seconds=0.0) for _ in range(stop)]
        broken.save(tmp_path / "run.state")
        events.close()
        resumed = type(broken).load(tiny_base(), tmp_path / "run.state")
        kept = before[: resumed.events]
        assert len(before) - len(kept) < 12
        assert kept + [replace(event, seconds=0.0) for event in resumed.run()] == whole
        assert same(weights_of(resumed), weights_of(straight))
        assert same(resumed.best, straight.best)
        assert resumed.checks == straight.checks


@pytest.mark.parametrize("change", [{"config": {"magic": 1}}, {"method": "magic"}, {"checks": None}], ids=str)
def test_files_that_no_run_goes_on_from(change, tmp_path):
    run, path = PirfTuning(tiny_base(), SMALL), tmp_path / "a.state"
    run.save(path)
    tensors, _, meta = load_run(path)
    meta = {k: v for k, v in (meta | change).items() if v is not None}
    save_run(path, tensors, run.optimiser, meta)
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        PirfTuning.load(tiny_base(), path)
