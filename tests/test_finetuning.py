"""Runs as the page and the command line make them: where they start, what they keep, what they will take."""

import math
import shlex
import time
from dataclasses import asdict, replace

import pytest
import torch
from test_pirf import SMALL, STEPS, same, tiny_base, updates_of, weights_of
from tiny import tiny_denoiser

from pirf_app.checkpoints import Checkpoint, InputError, load_checkpoint
from pirf_app.diffusion.run_state import load_run, save_run
from pirf_app.diffusion.sampler import initial_noise, sample
from pirf_app.evaluation import residual_rms
from pirf_app.methods.finetuning import (
    METHODS,
    PRESETS,
    Speed,
    check_fits,
    command_line,
    estimate,
    find_method,
    measure_speed,
    preset,
    trainable_parameters,
)
from pirf_app.methods.pirf import PirfTuning
from pirf_app.methods.pirf_config import BEST_BY, DivergedError, PirfConfig, PirfStep, PoolStep, Working
from pirf_app.pdes import pde_names

pytestmark = pytest.mark.usefixtures("quick_data")
SLOW = Speed(0.05, 0.12, 0.06, 4e6)  # of the largest bundled network on two shared cores


def steps_of(run: PirfTuning) -> list[PirfStep]:
    return [event for event in run.run() if isinstance(event, PirfStep)]


def test_a_run_says_at_once_that_it_lives_and_starts_its_curves_at_the_baseline():
    base = tiny_base(noise=0.02)
    run = PirfTuning(base, replace(SMALL, validation=6))
    events = list(run.run())
    assert isinstance(events[0], PoolStep)
    assert (events[0].done, events[0].total) == (0, 18)
    assert [e.done for e in events if isinstance(e, PoolStep)][-1] == 18
    first = next(e for e in events if isinstance(e, PirfStep))
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


def test_long_steps_are_cut_into_pieces_that_change_nothing():
    """Events come between the pieces, and the result is that of the whole."""
    whole, pieces = (PirfTuning(tiny_base(), replace(SMALL, chunk=n)) for n in (12, 2))
    assert not any(isinstance(e, Working) for e in whole.run())
    events = list(pieces.run())
    at = [e for e in events if isinstance(e, Working) and e.update == 1]
    assert [(e.done, e.total) for e in at] == [(2, 6), (4, 6)]
    for one, other in zip(weights_of(whole), weights_of(pieces), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_seconds_leave_out_what_the_listener_does():
    began = time.perf_counter()
    run = PirfTuning(tiny_base(), replace(SMALL, updates=2))
    for _ in run.run():
        time.sleep(0.05)
    assert run.seconds < time.perf_counter() - began - 0.3


@pytest.mark.parametrize("best_by", BEST_BY)
def test_the_best_state_is_kept_beside_the_last(best_by, tmp_path):
    run = PirfTuning(tiny_base(), replace(SMALL, updates=6, validate_every=1, learning_rate=0.05, best_by=best_by))
    kept, checks = {}, []
    for event in run.run():
        if isinstance(event, PirfStep) and event.update:
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


@pytest.mark.parametrize("late", [1, 3])
def test_a_diverged_run_holds_the_last_weights_whose_loss_was_finite(late):
    run, seen = PirfTuning(tiny_base(), replace(SMALL, updates=20, validate_every=100)), {}

    def watched():
        for event in run.run():
            if isinstance(event, PirfStep):
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
    assert torch.equal(*(sample(model, noise, run._schedule(STEPS))[0] for model in (own.denoiser, started)))
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


def test_an_interrupted_drawing_or_validation_goes_on_where_it_was(tmp_path):
    """A state saved in the middle of the drawing, of an update or of a validation leads to the same end and events."""
    config = replace(SMALL, chunk=2, pool_steps=(STEPS, 5), last_steps=2, updates=2, validate_every=1)
    straight = PirfTuning(tiny_base(), config)
    whole = [replace(event, seconds=0.0) for event in straight.run()]
    for stop in (6, len(whole) // 2, len(whole) - 3):
        broken = PirfTuning(tiny_base(), config)
        events = broken.run()
        before = [replace(next(events), seconds=0.0) for _ in range(stop)]
        broken.save(tmp_path / "run.state")
        events.close()
        resumed = PirfTuning.load(tiny_base(), tmp_path / "run.state")
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


def test_trainable_parameters_are_those_that_a_run_trains():
    base = tiny_base()
    counts = trainable_parameters(base)
    assert list(counts) == ["last", "highres", "decoder", "all"]
    assert counts["last"] < counts["decoder"] < counts["all"] == sum(p.numel() for p in base.denoiser.parameters())
    for name, count in counts.items():
        run = PirfTuning(base, replace(SMALL, trainable=name))
        assert sum(p.numel() for p in run.parameters) == count


@pytest.mark.parametrize("changes", [{}, {"trainable": "all", "last_steps": 2}, {"pool_steps": (4, 6)}], ids=str)
def test_the_estimate_is_near_what_a_run_takes(changes):
    base = tiny_base()
    config = replace(SMALL, updates=40, pool=32, batch=8, validate_every=10, validation=8, **changes)
    speed = measure_speed(base, config)
    expected = estimate(base, config, speed)
    run = PirfTuning(base, config)
    list(run.run())
    assert 0.2 < run.seconds / expected.seconds < 5
    assert expected.trainable_parameters == sum(p.numel() for p in run.parameters)
    assert expected.seconds == pytest.approx(
        expected.pool_seconds + expected.update_seconds + expected.validation_seconds
    )
    states = sum(x.nbytes for x in (*run.pool.tensors("a").values(), *run.validation.tensors("b").values()))
    assert expected.peak_bytes > states + sum(p.nbytes for p in run.model.parameters())
    assert expected.peak_bytes < 30 * (states + sum(p.nbytes for p in run.model.parameters()))


def test_measuring_leaves_the_checkpoint_alone():
    base = tiny_base()
    before = {k: v.clone() for k, v in base.denoiser.state_dict().items()}
    measure_speed(base, SMALL)
    assert all(torch.equal(v, before[k]) for k, v in base.denoiser.state_dict().items())
    assert not any(p.requires_grad for p in base.denoiser.parameters())


def test_more_layers_keep_a_larger_graph():
    base = tiny_base()
    last, everything = (measure_speed(base, replace(SMALL, trainable=name)).graph_bytes for name in ("last", "all"))
    assert 0 < last < everything


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("factor", [0.02, 0.3, 1.0])
def test_a_preset_fills_its_time_and_not_more(name, factor):
    base = tiny_base()
    speed = Speed(*(factor * x for x in (SLOW.evaluation, SLOW.update, SLOW.validation)), 4e6)
    config = preset(name, base, speed, seed=3)
    expected = estimate(base, config, speed)
    assert 0.6 * PRESETS[name] < expected.seconds < PRESETS[name]
    assert config.seed == 3
    assert config.chunk * max(speed.update, 2 * speed.evaluation) < 1
    check_fits(expected, PRESETS[name], 2**30)


def test_a_preset_keeps_what_is_asked_for():
    config = preset("2m", tiny_base(), SLOW, pool=10, updates=7, trainable="last", norm="plain", batch=3, chunk=1)
    assert (config.pool, config.updates, config.trainable) == (10, 7, "last")
    assert (config.norm, config.batch, config.chunk) == ("plain", 3, 1)


def test_what_does_not_fit_is_refused_with_a_reason():
    found = estimate(tiny_base(), SMALL, SLOW)
    check_fits(found, None, None)
    with pytest.raises(InputError, match=r"^[^\n]* s are allowed[^\n]*$"):
        check_fits(found, seconds_limit=found.seconds / 2)
    with pytest.raises(InputError, match=r"^[^\n]* MB are allowed[^\n]*$"):
        check_fits(found, memory_limit=found.peak_bytes / 2)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="30s"):
        preset("7y", tiny_base(), SLOW)
    with pytest.raises(InputError, match="pirf"):
        find_method("magic")


@pytest.mark.parametrize("name", pde_names())
def test_every_registered_method_runs_on_every_benchmark(name):
    for method in METHODS.values():
        config = method.config(updates=1, pool=2, batch=2, pool_steps=(3,), validation=2)
        assert list(method.tuning(tiny_base(name), config).run())[-1].update == 1
        assert method.title


def test_the_command_line_names_all_that_differs(tmp_path):
    """Read back by the option's own parser, it is the same recipe."""
    from pirf_app import cli

    config = replace(
        PirfConfig(), updates=7, learning_rate=3e-4, pool_steps=(6, 9), trainable="last", ema=0.5, warmup=3, clip=2.0,
        norm="plain", best_by="validation_residual", chunk=3, validation=5, seed=2**63 - 1,
    )  # fmt: skip
    words = shlex.split(command_line(config, tiny_base(), "a b.safetensors", begin="base"))
    assert words[:4] == ["python", "-m", "pirf_app", "finetune"]
    assert words[-2:] == ["--out", "a b.safetensors"]
    command = cli.typer.main.get_command(cli.app).commands["finetune"]
    found = command.make_context("finetune", words[4:]).params
    read = {k: v for k, v in found.items() if k in asdict(config) and v is not None}
    read["pool_steps"] = tuple(map(int, read["pool_steps"].split(",")))
    assert PirfConfig(**read) == config
    own = Checkpoint(tiny_denoiser("poisson"), replace(tiny_base().info, method="mine"), "cd" * 32)
    assert "--from mine.safetensors" in command_line(config, own, "a", begin="mine.safetensors")
    assert "--from poisson-16-mine.safetensors" in command_line(config, own, "a")
