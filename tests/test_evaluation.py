"""Figures that tell the truth: solver data scores the floor, and each way to cheat shows in the figure meant for it."""

import json
import math

import pytest
import torch
from test_checkpoints import info_of
from tiny import tiny_denoiser

from pirf_app import evaluation
from pirf_app.checkpoints import Checkpoint
from pirf_app.evaluation import draw_fields, evaluate, figures, floors, reference_data, residual_rms, solve_error
from pirf_app.pdes import get_pde, pde_names
from pirf_app.report import format_table

RESOLUTION, SAMPLES = 32, 48
every_pde = pytest.mark.parametrize("name", pde_names())
KEYS = {
    "residual_rms", "residual_median", "boundary_rms", "solve_error_median", "solve_error_p90", "amplitude",
    "diversity", "conservation_rate", "spectrum_error", "sliced_wasserstein", "paper_mse", "paper_mae",
}  # fmt: skip
ROW = KEYS | {"pde", "resolution", "method", "steps", "nfe", "solver", "n", "seconds"}


@pytest.fixture(scope="module", autouse=True)
def _smaller_reference():
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluation, "REFERENCE_SAMPLES", 128)
    reference_data.cache_clear()
    yield
    patch.undo()
    reference_data.cache_clear()


def solver_data(name: str) -> torch.Tensor:
    return get_pde(name).generate(SAMPLES, RESOLUTION, 77)


def floor_of(name: str) -> dict:
    return floors(name, RESOLUTION, SAMPLES)


def random_checkpoint(name: str) -> Checkpoint:
    model = tiny_denoiser(name, rank=8, modes=8)
    return Checkpoint(model.requires_grad_(False), info_of(model, name), "0" * 64)


@every_pde
def test_solver_data_scores_the_floor(name):
    found = figures(get_pde(name), solver_data(name))
    assert set(found) == KEYS
    assert found["residual_rms"] < 1e-3
    assert found["solve_error_median"] <= found["solve_error_p90"] < 1e-4
    assert found["amplitude"] == pytest.approx([1.0] * len(get_pde(name).channels), abs=0.15)
    assert found["diversity"] == pytest.approx(1, abs=0.15)
    assert found["conservation_rate"] == 1
    assert found["spectrum_error"] < 0.4
    assert found["paper_mse"] > 1e-3
    floor = floor_of(name)
    assert floor["sliced_wasserstein"] == pytest.approx(found["sliced_wasserstein"], rel=0.7)


@every_pde
def test_figures_are_deterministic(name):
    fields = solver_data(name)
    assert figures(get_pde(name), fields) == figures(get_pde(name), fields)


@every_pde
def test_all_zero_solutions_are_caught(name):
    pde, fields = get_pde(name), solver_data(name)
    fields[:, pde.solution_channels] = 0
    found = figures(pde, fields)
    assert found["solve_error_median"] == pytest.approx(1)
    assert [found["amplitude"][i] for i in pde.solution_channels] == [0] * len(pde.solution_channels)
    assert found["residual_rms"] > 100 * floor_of(name)["residual_rms"]
    assert found["conservation_rate"] == 0
    assert found["spectrum_error"] > 3


@every_pde
def test_all_zero_fields_are_caught(name):
    pde = get_pde(name)
    found = figures(pde, torch.zeros(8, len(pde.channels), RESOLUTION, RESOLUTION))
    assert found["amplitude"] == [0] * len(pde.channels)
    assert found["diversity"] == 0
    assert found["spectrum_error"] > 3
    assert found["sliced_wasserstein"] > 3 * floor_of(name)["sliced_wasserstein"]
    assert math.isfinite(found["spectrum_error"])
    assert not any(math.isnan(v) for v in found.values() if isinstance(v, float))


@every_pde
def test_one_repeated_sample_is_caught(name):
    fields = solver_data(name)[:1].expand(SAMPLES, -1, -1, -1).contiguous()
    found = figures(get_pde(name), fields)
    assert found["residual_rms"] < 1e-3  # the reward would be content
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
    assert found["conservation_rate"] < 1
    assert found["spectrum_error"] > 2 * floor["spectrum_error"]


@every_pde
def test_solve_error_and_residual_are_per_sample(name):
    pde, fields = get_pde(name), solver_data(name)[:3]
    fields[1, pde.solution_channels] *= 1.5
    assert solve_error(pde, fields)[1] == pytest.approx(0.5, rel=1e-2)
    assert solve_error(pde, fields)[[0, 2]].max() < 1e-4
    assert residual_rms(pde, fields)[1] > 100 * residual_rms(pde, fields)[[0, 2]].max()
    torch.testing.assert_close(solve_error(pde, fields, pde.solve(fields)), solve_error(pde, fields))


@every_pde
def test_report_row(name):
    checkpoint = random_checkpoint(name)
    row = evaluate(checkpoint, 5, 3, 11)
    assert set(row) == ROW
    assert (row["pde"], row["resolution"], row["method"]) == (name, 16, "base")
    assert (row["steps"], row["nfe"], row["n"]) == (5, 9, 3)
    again = evaluate(checkpoint, 5, 3, 11)
    assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    json.dumps(row, allow_nan=False)


@every_pde
def test_a_single_sample_still_gives_valid_json(name):
    row = evaluate(random_checkpoint(name), 2, 1, 0)
    json.dumps(row, allow_nan=False)
    assert row["diversity"] is None
    floor = floors(name, 16, 1)
    assert floor["diversity"] is None
    table = format_table([row], {name: floor})
    assert table.count("| – |") == 2
    assert "nan" not in table


@every_pde
def test_sampling_in_batches_changes_nothing(name):
    checkpoint = random_checkpoint(name)
    whole, nfe = draw_fields(checkpoint, 4, 5, 3)
    parts, same = draw_fields(checkpoint, 4, 5, 3, batch=2)
    assert nfe == same == 7
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3 * whole.std().item())
