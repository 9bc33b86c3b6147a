"""Figures that tell the truth: solver data scores the floor, and each way to cheat shows in the figure meant for it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import HANDOVER, info_of, tiny_denoiser, tuned_from

from pirf_app.common.checks import InputError
from pirf_app.evaluation import statistics
from pirf_app.evaluation.figures import draw_fields, evaluate, figures, flags, floors, residual_rms
from pirf_app.evaluation.report import format_table
from pirf_app.evaluation.statistics import Statistics, projected, reference, sliced_wasserstein
from pirf_app.models.checkpoint import Checkpoint
from pirf_app.pdes import get_pde, pde_names

RESOLUTION, SAMPLES = 32, 48
every_pde = pytest.mark.parametrize("name", pde_names())
KEYS = {
    "residual_rms", "residual_median", "boundary_rms", "solve_error_median", "solve_error_p90", "amplitude",
    "diversity", "conservation_rate", "spectrum_error", "sliced_wasserstein", "paper_mse", "paper_mae",
    "second_residual_rms", "spectrum_deviation", "reinterpreted",
}  # fmt: skip
ROW = KEYS | {"pde", "resolution", "method", "steps", "nfe", "solver", "n", "seconds", "seeds", "by_seed"}


pytestmark = pytest.mark.usefixtures("quick_data")


@pytest.fixture(scope="module", autouse=True)
def _smaller_reference():
    patch = pytest.MonkeyPatch()
    patch.setattr(statistics, "REFERENCE_SAMPLES", 96)
    patch.setattr(statistics, "FOLDER", Path("nowhere"))
    reference.cache_clear()
    yield
    patch.undo()
    reference.cache_clear()


def solver_data(name: str) -> torch.Tensor:
    return get_pde(name).generate(SAMPLES, RESOLUTION, 77)


def floor_of(name: str) -> dict:
    return floors(name, RESOLUTION, SAMPLES)


def random_checkpoint(name: str) -> Checkpoint:
    model = tiny_denoiser(name)
    return Checkpoint(model.requires_grad_(False), info_of(model, name), "0" * 64)


@every_pde
def test_solver_data_scores_the_floor(name):
    found = figures(get_pde(name), solver_data(name))
    assert set(found) == KEYS
    assert found["residual_rms"] < get_pde(name).residual_floor
    assert found["solve_error_median"] <= found["solve_error_p90"] < 1e-4
    # Of a slow solver there are few trajectories, each of many like fields.
    scatter = 0.4 if get_pde(name).training_pool else 0.15
    assert found["amplitude"] == pytest.approx([1.0] * len(get_pde(name).channels), abs=scatter)
    assert found["diversity"] == pytest.approx(1, abs=scatter)
    assert found["conservation_rate"] == (1 if get_pde(name).offers("balance") else None)
    assert found["spectrum_error"] < 5 * scatter
    assert not get_pde(name).offers("paper_residual") or found["paper_mse"] > 1e-3
    assert floor_of(name)["sliced_wasserstein"] == pytest.approx(found["sliced_wasserstein"], rel=0.9)


@every_pde
def test_figures_are_deterministic(name):
    fields = solver_data(name)
    assert figures(get_pde(name), fields) == figures(get_pde(name), fields)


def without_solution(name: str) -> torch.Tensor:
    """Solver data of which only what the solver is given is left."""
    pde, fields = get_pde(name), solver_data(name)
    return pde.hold_inputs(torch.zeros_like(fields), fields)


@every_pde
def test_missing_solutions_are_caught(name):
    found = figures(get_pde(name), without_solution(name))
    if get_pde(name).view != "frames":  # there the error is relative to the change, which a missing frame exceeds
        assert found["solve_error_median"] == pytest.approx(1, abs=0.25)
    assert found["solve_error_median"] > 0.7
    assert found["residual_rms"] > 100 * floor_of(name)["residual_rms"]
    assert found["second_residual_rms"] > 1.5 * floor_of(name)["second_residual_rms"]
    assert found["spectrum_error"] > 0.5
    assert found["conservation_rate"] == (0 if get_pde(name).offers("balance") else None)


def test_a_drift_in_time_is_caught():
    """For Burgers zero everywhere is a solution: the way to cheat there is to change what is conserved."""
    pde, fields = get_pde("burgers"), solver_data("burgers")
    drifting = fields + 0.1 * torch.linspace(0, 1, RESOLUTION)[:, None]
    found, floor = figures(pde, drifting), floor_of("burgers")
    assert found["conservation_rate"] == 0
    assert found["solve_error_median"] > 0.1
    assert found["residual_rms"] > 5 * floor["residual_rms"]


@every_pde
def test_all_zero_fields_are_caught(name):
    pde = get_pde(name)
    found = figures(pde, torch.zeros(8, len(pde.channels), RESOLUTION, RESOLUTION))
    assert found["amplitude"] == [0] * len(pde.channels)
    assert found["diversity"] == 0
    assert found["spectrum_error"] > 3
    assert found["sliced_wasserstein"] > 2 * floor_of(name)["sliced_wasserstein"]
    assert math.isfinite(found["spectrum_error"])
    assert not any(math.isnan(v) for v in found.values() if isinstance(v, float))


@every_pde
def test_one_repeated_sample_is_caught(name):
    fields = solver_data(name)[:1].expand(SAMPLES, -1, -1, -1).contiguous()
    found = figures(get_pde(name), fields)
    assert found["residual_rms"] < get_pde(name).residual_floor  # the reward would be content
    assert found["diversity"] == 0
    assert found["sliced_wasserstein"] > 1.5 * floor_of(name)["sliced_wasserstein"]


@every_pde
def test_half_the_amplitude_is_caught(name):
    """Half of every field solves a linear PDE just as well: only the distribution tells."""
    pde, fields = get_pde(name), solver_data(name)
    mean = fields.mean((0, 2, 3), keepdim=True)
    found = figures(pde, mean + 0.5 * (fields - mean))
    normal = figures(pde, fields)["amplitude"]
    assert found["amplitude"] == pytest.approx([0.5 * a for a in normal], rel=1e-3)
    assert found["diversity"] == pytest.approx(0.5, abs=0.1)
    assert found["spectrum_error"] > 0.8
    assert found["sliced_wasserstein"] > 1.2 * floor_of(name)["sliced_wasserstein"]


@every_pde
def test_noise_is_caught(name):
    pde, fields = get_pde(name), solver_data(name)
    channel = pde.solution_channels[0]
    noise = torch.randn(fields[:, channel].shape, generator=torch.Generator().manual_seed(0))
    fields[:, channel] += 0.1 * pde.channels[channel].std * noise
    found, floor = figures(pde, fields), floor_of(name)
    assert found["residual_rms"] > 100 * floor["residual_rms"]
    assert found["solve_error_median"] > 0.02
    assert found["spectrum_error"] > floor["spectrum_error"]


@every_pde
def test_solve_error_and_residual_are_per_sample(name):
    pde, fields = get_pde(name), solver_data(name)[:3]
    fields[1] = pde.hold_inputs(1.5 * fields[1:2], fields[1:2])[0]
    errors, residuals = pde.solve_error(fields), residual_rms(pde, fields)
    assert errors[1] > 0.4
    assert errors[[0, 2]].max() < 1e-4
    assert residuals[1] > 50 * residuals[[0, 2]].max()
    torch.testing.assert_close(pde.solve_error(fields, pde.solve(fields)), errors)


@every_pde
def test_report_row(name):
    checkpoint = random_checkpoint(name)
    (row,) = evaluate([checkpoint], 5, 3, [11])
    assert set(row) == ROW
    assert (row["pde"], row["resolution"], row["method"]) == (name, 16, "base")
    assert (row["steps"], row["nfe"], row["n"]) == (5, 5, 3)
    (again,) = evaluate([checkpoint], 5, 3, [11])
    assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    json.dumps(row, allow_nan=False)


@every_pde
def test_models_evaluated_together_score_what_each_scores_alone(name):
    """In the order asked for, whatever sampler each recommends; the noise is the same."""
    model = tiny_denoiser(name).requires_grad_(False)
    more = {"parent": "0" * 64, "handover": HANDOVER}
    models = [
        Checkpoint(model, info_of(model, name), "0" * 64),
        Checkpoint(model, info_of(model, name, "slow", solver="heun"), "1" * 64),
        Checkpoint(tuned_from(model), info_of(model, name, "pirf", **more), "2" * 64),
    ]
    rows = evaluate(models, 4, 3, [11])
    assert [(row["method"], row["solver"], row["nfe"]) for row in rows] == [
        ("base", "multistep", 4),
        ("slow", "heun", 7),
        ("pirf", "multistep", 4),
    ]
    for checkpoint, row in zip(models, rows, strict=True):
        (alone,) = evaluate([checkpoint], 4, 3, [11])
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in alone.items() if k != "seconds"}
    assert rows[0]["residual_rms"] != rows[2]["residual_rms"]


@every_pde
def test_a_single_sample_still_gives_valid_json(name):
    (row,) = evaluate([random_checkpoint(name)], 2, 1, [0])
    json.dumps(row, allow_nan=False)
    assert row["diversity"] is None
    floor = floors(name, 16, 1)
    assert floor["diversity"] is None
    table = format_table([row], {name: floor})
    assert table.count("| – |") == 2
    assert "nan" not in table


@every_pde
def test_a_row_pools_its_seeds_and_says_each_ones_figures(name):
    checkpoint = random_checkpoint(name)
    (both,), (first,), (second,) = (evaluate([checkpoint], 3, 4, seeds) for seeds in ([5, 9], [5], [9]))
    assert (both["n"], both["seeds"]) == (8, [5, 9])
    assert both["by_seed"] == first["by_seed"] + second["by_seed"]
    mean_square = (first["residual_rms"] ** 2 + second["residual_rms"] ** 2) / 2
    assert both["residual_rms"] == pytest.approx(mean_square**0.5, rel=1e-5)
    fields = torch.cat([draw_fields(checkpoint, 3, 4, seed)[0] for seed in (5, 9)])
    errors = sorted(get_pde(name).solve_error(fields).tolist())
    assert both["solve_error_p90"] == pytest.approx(errors[6] + 0.3 * (errors[7] - errors[6]), rel=1e-4)
    assert both["solve_error_median"] == pytest.approx((errors[3] + errors[4]) / 2, rel=1e-4)


@every_pde
def test_sampling_in_batches_changes_nothing(name):
    checkpoint = random_checkpoint(name)
    whole, nfe = draw_fields(checkpoint, 4, 5, 3)
    parts, same = draw_fields(checkpoint, 4, 5, 3, batch=2)
    assert nfe == same == 4
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3 * whole.std().item())


ROW_OF_BASE = {"residual_rms": 1.0, "second_residual_rms": 2.0, "solve_error_median": 0.1, "diversity": 1.0}
GOOD = ROW_OF_BASE | {"residual_rms": 0.5, "second_residual_rms": 1.5, "solve_error_median": 0.05}


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({}, None),
        ({"residual_rms": 1e-4}, "below the data floor"),
        ({"solve_error_median": 0.11}, "residual falls while forward-solve error rises"),
        ({"second_residual_rms": 2.1}, "residual falls by one stencil while it rises by another"),
        ({"diversity": 0.9}, "diversity lost"),
    ],
)
def test_flags(change, flag):
    assert flags(GOOD | change, ROW_OF_BASE, {"residual_rms": 1e-3}) == ([flag] if flag else [])


def test_flags_that_are_not_due():
    floor = {"residual_rms": 1e-3}
    assert flags(ROW_OF_BASE, ROW_OF_BASE, floor) == []
    # Nothing is gained, so nothing is suspicious of it: a worse model is no cheat.
    worse = {"residual_rms": 2.0, "second_residual_rms": 9.0, "solve_error_median": 0.9}
    assert flags(ROW_OF_BASE | worse, ROW_OF_BASE, floor) == []
    scatter = {"residual_rms": 0.99, "solve_error_median": 0.2, "diversity": 0.99}
    assert flags(ROW_OF_BASE | scatter, ROW_OF_BASE, floor) == []
    # One sample has no diversity, and a comparison on the page has neither that nor a second residual.
    assert flags(GOOD | {"diversity": None}, ROW_OF_BASE, floor) == []
    short = {key: GOOD[key] for key in ("residual_rms", "solve_error_median")}
    assert flags(short, {key: ROW_OF_BASE[key] for key in short}, floor) == []
    # With few samples the error scatters, and nothing else.
    rising = GOOD | {"solve_error_median": 1.05 * ROW_OF_BASE["solve_error_median"]}
    assert (len(flags(rising, ROW_OF_BASE, floor)), flags(rising, ROW_OF_BASE, floor, 0.1)) == (1, [])
    slight = rising | {"residual_rms": 0.95 * ROW_OF_BASE["residual_rms"]}
    assert len(flags(slight, ROW_OF_BASE, floor, 0.04)) == 1
    every = {"residual_rms": 1e-4, "second_residual_rms": 9.0, "solve_error_median": 0.9, "diversity": 0.0}
    assert len(flags(every, ROW_OF_BASE, floor)) == 4


def test_statistics_round_trip(tmp_path):
    pde = get_pde("poisson")
    kept = Statistics.of(pde, pde.generate(32, 16, 1))
    kept.save(tmp_path / "a.npz")
    found = Statistics.load(tmp_path / "a.npz")
    np.testing.assert_allclose(found.quantiles, kept.quantiles, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(found.spectrum, kept.spectrum, rtol=1e-5)
    np.testing.assert_array_equal(found.std, kept.std)
    assert (found.n, found.distance) == (32, kept.distance)


@pytest.mark.parametrize("how", ["text", "empty", "other", "missing", "truncated", "flipped", "one array"])
def test_damaged_statistics_are_refused(how, tmp_path):
    path = tmp_path / "a.npz"
    if how == "other":
        np.savez(path, x=np.zeros(3))
    elif how == "one array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif how in ("truncated", "flipped"):
        pde = get_pde("poisson")
        Statistics.of(pde, pde.generate(2, 16, 1)).save(path)
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 255
        path.write_bytes(whole[:-300] if how == "truncated" else whole)
    elif how != "missing":
        path.write_text("no statistics" if how == "text" else "")
    with pytest.raises(InputError, match=r"^[^\n]*a.npz[^\n]*$"):
        Statistics.load(path)


def test_kept_statistics_are_used_where_there_are_any(tmp_path, monkeypatch):
    pde = get_pde("poisson")
    monkeypatch.setattr(statistics, "FOLDER", tmp_path)
    Statistics.of(pde, 2 * pde.generate(32, 16, 1)).save(tmp_path / "poisson-16.npz")
    reference.cache_clear()
    doubled, made = reference("poisson", 16), reference("poisson", 32)
    reference.cache_clear()
    assert (doubled.n, made.n) == (32, statistics.REFERENCE_SAMPLES)
    assert doubled.std == pytest.approx(2 * made.std, rel=0.4)


@every_pde
def test_sliced_wasserstein_of_data_is_small_and_grows_with_a_shift(name):
    pde, data, known = get_pde(name), solver_data(name), reference(name, RESOLUTION)
    step = torch.tensor([c.std for c in pde.channels])[:, None, None]
    far = [sliced_wasserstein(projected(data + k * step, known.std), known.quantiles) for k in (0, 1, 2, 4)]
    assert far == sorted(far)
    assert far[-1] > 3 * far[0]


def test_sliced_wasserstein_of_a_shift_is_the_shift():
    """Along a random direction of d pixels, a constant c moves the projection by c times the sum of its components."""
    draw = torch.Generator().manual_seed(0)
    fields, std = torch.randn(512, 1, 8, 8, generator=draw), np.ones(1)
    mine, moved = projected(fields, std), projected(fields + 3, std)
    assert sliced_wasserstein(mine, mine) == 0
    expected = 3 * np.abs(statistics._directions(64).sum(1)).mean()
    assert sliced_wasserstein(moved, mine) == pytest.approx(expected, rel=1e-4)
    other = projected(torch.randn(512, 1, 8, 8, generator=draw), std)
    assert sliced_wasserstein(other, mine) < 0.1
