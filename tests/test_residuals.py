"""What is measured on fields: small for solver data, large for what is none, and the same for turned fields."""

import pytest
import torch
from pde_data import data, disturbed, every_pde, evolving, square, time_axis

from pirf_app.common.checks import InputError
from pirf_app.pdes import get_pde
from pirf_app.pdes.stencils import rms


def maps(pde) -> list:
    """What a benchmark measures at every point."""
    optional = [pde.paper_residual] if pde.offers("paper_residual") else []
    return [pde.residual, pde.second_residual, pde.error_field, *optional]


def numbers(pde) -> list:
    """What it measures of every sample."""
    return [pde.boundary_violation, pde.solve_error, *([pde.balance] if pde.offers("balance") else [])]


@every_pde
@pytest.mark.parametrize("resolution", [32, 64])
def test_solver_data_satisfies_its_own_discretisation(name, resolution):
    pde, fields = get_pde(name), data(name, 4, resolution)
    scale = pde.channels[pde.solution_channels[0]].std
    residual = pde.residual(fields)
    assert residual.shape == (4, resolution, resolution)
    assert rms(pde.interior(residual)).max() < pde.residual_floor
    assert pde.boundary_violation(fields).max() < 1e-4 * scale
    assert not pde.offers("balance") or pde.balance(fields).max() < 1e-3
    assert pde.error_field(fields).abs().max() < 1e-2
    assert pde.solve_error(fields).max() < 1e-4


@every_pde
def test_second_residual_tells_solver_data_from_disturbed_fields(name):
    pde, fields, noisy = get_pde(name), data(name, 2, 64), disturbed(name, 64)
    truncation, left = (rms(pde.interior(pde.second_residual(x))) for x in (fields, noisy))
    assert pde.second_residual(fields).shape == (2, 64, 64)
    assert 2 * rms(pde.interior(pde.residual(fields))).max() < truncation.max() < 0.02 * left.min() < torch.inf


@square
def test_second_residual_notices_a_missing_solution(name):
    pde, fields = get_pde(name), data(name, 4, 64)
    truncation = rms(pde.interior(pde.second_residual(fields)))
    fields[:, pde.solution_channels] = 0
    assert (rms(pde.interior(pde.second_residual(fields))) > 5 * truncation).all()


@evolving
def test_copies_of_the_input_do_not_pass(name):
    """The first row or frame, repeated, is no solution: of frames wholly wrong, for the error is that of the change."""
    pde, fields = get_pde(name), data(name)
    still = fields.narrow(time_axis(name), 0, 1).expand_as(fields).clone()
    assert rms(pde.interior(pde.residual(still))).min() > 100 * pde.residual_floor
    assert pde.solve_error(still).min() > 0.2
    if pde.view == "frames":
        torch.testing.assert_close(pde.solve_error(still), torch.ones(3))


@every_pde
def test_every_figure_is_finite_per_sample_and_keeps_the_dtype(name):
    pde, fields = get_pde(name), disturbed(name, 16)
    for dtype in (torch.float32, torch.float64):
        x = fields.to(dtype)
        for figure in (*maps(pde), *numbers(pde)):
            value = figure(x)
            assert value.dtype == dtype
            assert value.isfinite().all()
            torch.testing.assert_close(figure(x[1:]), value[1:], rtol=1e-4, atol=1e-4)
    assert pde.solve(fields).isfinite().all()


@every_pde
def test_a_disturbed_field_is_noticed(name):
    pde, fields = get_pde(name), disturbed(name, 32)
    assert rms(pde.interior(pde.residual(fields))).min() > 0.01
    assert rms(pde.error_field(fields)).min() > 1e-3
    assert (pde.solve(fields) - fields)[:, pde.solution_channels].abs().max() > 0


@every_pde
def test_gradients_match_finite_differences(name):
    pde, fields = get_pde(name), disturbed(name).requires_grad_()
    for figure in (pde.residual, pde.error_field):
        assert torch.autograd.gradcheck(figure, fields, fast_mode=fields.numel() > 1000)


@every_pde
def test_paper_residual_has_a_floor_far_from_zero(name):
    pde, fields = get_pde(name), data(name, 4, 64)
    if not pde.offers("paper_residual"):
        pytest.skip("the paper has no such benchmark")
    assert pde.paper_residual(fields).shape == (4, 64, 64)
    assert pde.paper_residual(fields).square().mean() > 1e-3


@square
@pytest.mark.parametrize("turn", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)])
def test_symmetries_of_the_square(name, turn):
    pde, fields = get_pde(name), disturbed(name)
    for map_of in (pde.residual, pde.paper_residual, pde.error_field):
        torch.testing.assert_close(map_of(turn(fields)), turn(map_of(fields)))
    for figure in (pde.boundary_violation, pde.balance):
        torch.testing.assert_close(figure(turn(fields)), figure(fields))


@every_pde
def test_balance_notices_a_missing_solution(name):
    pde, fields = get_pde(name), data(name, 16)
    if not pde.offers("balance"):
        pytest.skip("it has no conservation law")
    fields = pde.hold_inputs(torch.zeros_like(fields), fields)
    assert pde.balance(fields).min() > 0.5


@pytest.mark.parametrize("name", ["poisson", "helmholtz"])
def test_error_field_of_a_linear_problem_is_the_error(name):
    pde, fields = get_pde(name), disturbed(name, 16)
    fields[:, 1, [0, -1]] = fields[:, 1, :, [0, -1]] = 0
    error = (fields - pde.solve(fields))[:, 1] / pde.channels[1].std
    torch.testing.assert_close(pde.error_field(fields), error)


@pytest.mark.parametrize("phase", [3.0, 12.0])
def test_darcy_error_field_is_the_error_in_a_uniform_medium(phase):
    pde, fields = get_pde("darcy"), disturbed("darcy", 16)
    fields[:, 0] = phase
    error = (fields - pde.solve(fields))[:, 1] / pde.channels[1].std
    torch.testing.assert_close(pde.error_field(fields), error * phase / 7.5)


def test_edge_of_poisson_counts_as_boundary_violation():
    pde, fields = get_pde("poisson"), data("poisson", 2, 16)
    fields[:, 1, 0] = 1.0
    assert torch.allclose(pde.boundary_violation(fields), torch.tensor((16 / 60) ** 0.5))


@every_pde
def test_symmetries_keep_what_is_measured(name):
    pde = get_pde(name)
    fields = disturbed(name, 16)
    moved = [pde.transform(fields, k) for k in range(pde.symmetries)]
    assert torch.equal(moved[0], fields)
    for one in moved:
        for figure in (pde.residual, pde.second_residual):
            torch.testing.assert_close(rms(figure(one)), rms(figure(fields)))
        if pde.offers("balance"):
            torch.testing.assert_close(pde.balance(one), pde.balance(fields))
    assert len({tuple(one.flatten().tolist()) for one in moved}) == pde.symmetries


@pytest.mark.parametrize("name", ["burgers", "kolmogorov"])
def test_columns_wrap_around(name):
    pde, fields = get_pde(name), disturbed(name, 16)
    for figure in (pde.residual, pde.second_residual, pde.error_field):
        torch.testing.assert_close(figure(fields.roll(3, -1)), figure(fields).roll(3, -1))


@every_pde
def test_what_is_not_a_number_does_not_pass_for_one(name):
    """In the maps it stays; there is no solution of such an input, and the sample is named."""
    pde, fields = get_pde(name), data(name, 3)
    row = 5 if pde.input_channels else 0
    fields[1, 0, row, 5] = torch.nan
    for figure in maps(pde):
        assert figure(fields)[1].isnan().any()
        assert figure(fields)[[0, 2]].isfinite().all()
    assert not pde.offers("balance") or pde.balance(fields).isnan().tolist() == [False, True, False]
    for call in (pde.solve, pde.solve_error):
        with pytest.raises(InputError, match="sample 1 has inputs that are not finite"):
            call(fields)


def test_a_permeability_that_is_no_phase_is_told():
    """The medium is the nearer phase all the same, so that previews of noisy fields have a residual."""
    pde, fields = get_pde("darcy"), data("darcy", 4)
    half = slice(0, fields.shape[-1] // 2)
    fields[1, 0, half] = 0.0
    fields[2, 0] = -1.0
    fields[3, 0] = 3 + 9 * torch.linspace(0, 1, fields.shape[-1])
    share = pde.reinterpreted(fields)
    assert share[:3].tolist() == [0.0, 0.5, 1.0]
    assert 0.6 < share[3] < 0.9
    assert pde.residual(fields).isfinite().all()
