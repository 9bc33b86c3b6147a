"""Before a run begins: what it will take, recipes that fill a given time, the command line that repeats it."""

import shlex
from dataclasses import asdict, replace

import pytest
import torch
from tiny import tiny_denoiser
from tiny_runs import SLOW, SMALL, every_method, tiny_base, tiny_run

from pirf_app.methods.pirf import PirfConfig, PirfTuning
from pirf_app.methods.presets import (
    PRESETS,
    check_fits,
    command_line,
    continued,
    estimate,
    preset,
    trainable_parameters,
)
from pirf_app.methods.registry import find_method
from pirf_app.methods.speed import measure_speed
from pirf_app.models.checkpoint import Checkpoint, InputError

pytestmark = pytest.mark.usefixtures("quick_data")


def test_trainable_parameters_are_those_that_a_run_trains():
    base = tiny_base()
    counts = trainable_parameters(base)
    assert list(counts) == ["last", "highres", "decoder", "all"]
    assert counts["last"] < counts["decoder"] < counts["all"] == sum(p.numel() for p in base.denoiser.parameters())
    for name, count in counts.items():
        run = PirfTuning(base, replace(SMALL, trainable=name))
        assert sum(p.numel() for p in run.parameters) == count


@every_method
@pytest.mark.parametrize("changes", [{}, {"trainable": "all", "last_steps": 2}, {"pool_steps": (4, 6)}], ids=str)
def test_the_estimate_is_near_what_a_run_takes(changes, method):
    base = tiny_base()
    run = tiny_run(method, base, updates=40, pool=32, batch=8, validate_every=10, validation=8, **changes)
    expected = estimate(base, run.config, measure_speed(base, run.config, method))
    list(run.run())
    assert 0.2 < run.seconds / expected.seconds < 5
    assert expected.trainable_parameters == sum(p.numel() for p in run.parameters)
    assert expected.seconds == pytest.approx(
        expected.pool_seconds + expected.update_seconds + expected.validation_seconds
    )
    states = sum(x.nbytes for x in run.drawn().values())
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


@pytest.mark.parametrize(("last_steps", "samples"), [(1, 4), (2, 4), (5, 1), (9, 1)])
def test_measuring_holds_few_steps_of_few_samples_whatever_is_asked_for(last_steps, samples, monkeypatch):
    seen, real = [], PirfTuning.one_update

    def one_update(self):
        seen.append(self.config.batch)
        return real(self)

    monkeypatch.setattr(PirfTuning, "one_update", one_update)
    measure_speed(tiny_base(), replace(SMALL, last_steps=last_steps, pool_steps=(10,)))
    assert set(seen) == {samples}


def test_a_recipe_in_a_file_that_is_none_is_no_recipe():
    base = tiny_base()
    tuned = replace(base, info=replace(base.info, parent="ab" * 32, handover=0.1, recipe={"config": 5}))
    assert continued(tuned) == {}


@every_method
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("factor", [0.02, 0.3, 1.0])
def test_a_preset_fills_its_time_and_not_more(name, factor, method):
    base, speed = tiny_base(), SLOW.shared(1 / factor)
    config = preset(name, base, speed, method, seed=3)
    expected = estimate(base, config, speed)
    assert 0.6 * PRESETS[name] < expected.seconds < PRESETS[name]
    assert config.seed == 3
    assert config.chunk * max(speed.update, 2 * speed.evaluation) < 1
    check_fits(expected, PRESETS[name], 2**30)


def test_a_short_run_holds_the_error_where_it_cannot_be_learned():
    darcy = preset("2m", tiny_base("darcy"), SLOW)
    assert darcy.hold > 0
    assert darcy.error_weight < PirfConfig().error_weight
    assert preset("2m", tiny_base("darcy"), SLOW, hold=0.0, error_weight=2.0).error_weight == 2.0
    assert preset("2m", tiny_base("darcy"), SLOW, norm="plain").hold == 0  # the paper's reward and nothing else
    assert preset("10m", tiny_base("darcy"), SLOW).hold == 0
    tuned = tiny_base("darcy")
    tuned = replace(tuned, info=replace(tuned.info, parent="ab" * 32, handover=0.1))
    assert preset("2m", tuned, SLOW).hold == 0  # it would be pulled back to the baseline
    assert preset("2m", tiny_base("poisson"), SLOW).hold == 0


def test_a_preset_keeps_what_is_asked_for():
    config = preset("2m", tiny_base(), SLOW, pool=10, updates=7, trainable="last", norm="plain", batch=3, chunk=1)
    assert (config.pool, config.updates, config.trainable) == (10, 7, "last")
    assert (config.norm, config.batch, config.chunk) == ("plain", 3, 1)


def test_what_does_not_fit_is_refused_with_a_reason():
    found = estimate(tiny_base(), SMALL, SLOW)
    check_fits(found, None, None)
    with pytest.raises(InputError, match=r"^[^\n]*take about \d+ s here, and \d+ s are allowed[^\n]*$"):
        check_fits(found, seconds_limit=found.seconds / 2)
    with pytest.raises(InputError, match=r"^[^\n]* MB are allowed[^\n]*$"):
        check_fits(found, memory_limit=found.peak_bytes / 2)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="30s"):
        preset("7y", tiny_base(), SLOW)
    with pytest.raises(InputError, match="choose pirf, pidm"):
        find_method("magic")


def test_the_command_line_names_all_that_differs(tmp_path):
    """Read back by the option's own parser, it is the same recipe."""
    from pirf_app.cli import main

    config = replace(
        PirfConfig(), updates=7, learning_rate=3e-4, pool_steps=(6, 9), trainable="last", ema=0.5, warmup=3, clip=2.0,
        norm="plain", best_by="validation_residual", chunk=3, validation=5, seed=2**63 - 1,
    )  # fmt: skip
    words = shlex.split(command_line(config, tiny_base(), "a b.safetensors", begin="base"))
    assert words[:4] == ["python", "-m", "pirf_app", "finetune"]
    assert words[-2:] == ["--out", "a b.safetensors"]
    command = main.typer.main.get_command(main.app).commands["finetune"]
    found = command.make_context("finetune", words[4:]).params
    read = {k: v for k, v in found.items() if k in asdict(config) and v is not None}
    read["pool_steps"] = tuple(map(int, read["pool_steps"].split(",")))
    assert PirfConfig(**read) == config
    own = Checkpoint(tiny_denoiser("poisson"), replace(tiny_base().info, method="mine"), "cd" * 32)
    assert "--from mine.safetensors" in command_line(config, own, "a", begin="mine.safetensors")
    assert "--from poisson-16-mine.safetensors" in command_line(config, own, "a")
