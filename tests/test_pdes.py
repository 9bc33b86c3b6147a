"""The contract that every benchmark keeps. A new PDE is picked up here without a new test."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from pirf_app.pdes import InputError, get_pde, pde_names
from pirf_app.pdes.random_fields import BATCHES, POOL_NOISE, TRAINING_DATA, derived_seed, generator
from pirf_app.pdes.stencils import rms
from pirf_app.pdes.units import in_units

every_pde = pytest.mark.parametrize("name", pde_names())
square = pytest.mark.parametrize("name", [n for n in ("darcy", "poisson", "helmholtz") if n in pde_names()])
SEED = 7
# RMS residual that solver data may leave: rounding, but in time the residual's own fourth-order error.
FLOORS = {"burgers": 2e-3, "kolmogorov": 5e-3}


def one_sentence(error) -> bool:
    text = str(error.value)
    return bool(text) and "\n" not in text and len(text) < 300


@lru_cache(maxsize=32)
def generated(name: str, n: int, resolution: int) -> torch.Tensor:
    return get_pde(name).generate(n, resolution, SEED)


def data(name: str, n: int = 3, resolution: int = 32) -> torch.Tensor:
    """The first `n` fields of a batch that the tests share, to be changed at will."""
    return generated(name, max(n, 16), resolution)[:n].clone()


def smallest(name: str) -> int:
    return max(8, get_pde(name).min_resolution)


def disturbed(name: str, resolution: int | None = None) -> torch.Tensor:
    """Solver data plus noise on every channel, float64; small enough on inputs to keep a two-phase medium's phases."""
    pde = get_pde(name)
    x = pde.normalise(data(name, 2, resolution or smallest(name)).double())
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    noise[:, pde.input_channels] *= 0.1
    return pde.denormalise(x + 0.3 * noise)


@every_pde
def test_data_shape_and_determinism(name):
    pde = get_pde(name)
    fields = pde.generate(3, 32, SEED)
    assert fields.shape == (3, len(pde.channels), 32, 32)
    assert fields.dtype == torch.float32
    assert fields.isfinite().all()
    assert torch.equal(fields, pde.generate(3, 32, SEED))
    assert not torch.equal(fields, pde.generate(3, 32, SEED + 1))


@every_pde
def test_sample_does_not_depend_on_how_many_are_drawn(name):
    many = get_pde(name).generate(35, smallest(name), SEED)
    for n in (1, 8, 34):
        assert torch.equal(get_pde(name).generate(n, smallest(name), SEED), many[:n])
    assert len(torch.unique(many.flatten(1), dim=0)) == 35


@every_pde
def test_large_seeds_are_streams_of_their_own(name):
    """Training draws seeds of 2^62 and more: samples there must not be some sample of a small seed."""
    pde, resolution = get_pde(name), smallest(name)
    small = pde.generate(257 if pde.training_pool is None else 33, resolution, SEED)
    for seed in (SEED + 2**32, SEED + 2**40, SEED + 2**62, derived_seed(SEED, TRAINING_DATA, 0)):
        large = pde.generate(2, resolution, seed)
        assert not any(torch.equal(x, y) for x in large for y in small)


@every_pde
@pytest.mark.parametrize("resolution", [32, 64])
def test_solver_data_satisfies_its_own_discretisation(name, resolution):
    pde, fields = get_pde(name), data(name, 4, resolution)
    scale = pde.channels[pde.solution_channels[0]].std
    residual = pde.residual(fields)
    assert residual.shape == (4, resolution, resolution)
    assert rms(pde.interior(residual)).max() < FLOORS.get(name, 1e-3)
    assert pde.boundary_violation(fields).max() < 1e-4 * scale
    assert pde.balance(fields).max() < 1e-3
    assert pde.error_field(fields).abs().max() < 1e-2
    assert pde.solve_error(fields).max() < 1e-4


@every_pde
def test_solve_reproduces_the_solution(name):
    pde, fields = get_pde(name), data(name)
    broken = pde.hold_inputs(0.5 * fields.flip(-1), fields)
    for dtype in (torch.float32, torch.float64):
        solved = pde.solve(broken.to(dtype))
        assert solved.dtype == dtype
        torch.testing.assert_close(solved.float(), fields, rtol=1e-4, atol=1e-4 * fields.std().item())
        relative = (solved - fields)[:, pde.solution_channels].norm() / fields[:, pde.solution_channels].norm()
        assert relative < 1e-4


@every_pde
def test_inputs_are_what_is_held_and_what_is_solved_from(name):
    pde, fields, other = get_pde(name), data(name), data(name).flip(0)
    held = pde.hold_inputs(fields, other)
    torch.testing.assert_close(pde.inputs(held), pde.inputs(other))
    assert not torch.equal(held, other)
    assert torch.equal(pde.hold_inputs(fields, fields), fields)
    torch.testing.assert_close(pde.solve(held), pde.solve(other))


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


@pytest.mark.parametrize("name", ["burgers", "kolmogorov"])
def test_copies_of_the_input_do_not_pass(name):
    """The first row or frame, repeated, is not a solution: wholly wrong by Kolmogorov's measure, the change."""
    pde, fields = get_pde(name), data(name)
    dim = 2 if name == "burgers" else 1
    still = fields.narrow(dim, 0, 1).expand_as(fields).clone()
    assert rms(pde.interior(pde.residual(still))).min() > 100 * FLOORS[name]
    assert pde.solve_error(still).min() > 0.2
    if name == "kolmogorov":
        torch.testing.assert_close(pde.solve_error(still), torch.ones(3))


@every_pde
def test_every_figure_is_finite_per_sample_and_keeps_the_dtype(name):
    pde, fields = get_pde(name), disturbed(name, 16)
    for dtype in (torch.float32, torch.float64):
        x = fields.to(dtype)
        maps = (pde.residual, pde.second_residual, pde.paper_residual, pde.error_field)
        for figure in (*maps, pde.boundary_violation, pde.balance, pde.solve_error):
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
def test_normalisation_round_trip_and_statistics(name):
    pde = get_pde(name)
    fields = data(name, 128 if pde.training_pool is None else 32, pde.default_resolution)
    torch.testing.assert_close(pde.denormalise(pde.normalise(fields)), fields, rtol=1e-5, atol=1e-6)
    x = pde.normalise(fields)
    assert x.mean((0, 2, 3)).abs().max() < 0.1
    spread = x.std((0, 2, 3))
    # What a flow says follows from its first frame is kept small, so that the noise hides it until the last step.
    assert spread[1:].max() < 0.01 if hasattr(pde, "SCALES") else (spread - 0.5).abs().max() < 0.1
    assert spread[0].item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", [n for n in pde_names() if get_pde(n).hint_channels])
def test_hints_are_close_to_solver_data_and_have_its_symmetries(name):
    """From clean data the guess is the data, to the accuracy of one explicit step; turned data gives a turned guess."""
    pde = get_pde(name)
    fields = data(name, 3, 32)
    x = pde.normalise(fields)
    guess, features = pde.hints(x)
    assert guess.shape == x.shape
    assert len(guess[0]) + len(features[0]) == pde.hint_channels
    assert 0.2 < rms(features).min() <= rms(features).max() < 2
    spread = x.std((0, 2, 3))
    assert ((guess - x).square().mean((0, 2, 3)).sqrt() < 0.05 * spread).all()
    for k in range(0, pde.symmetries, 13):
        turned = pde.hints(pde.normalise(pde.transform(fields, k)))[0]
        expected = pde.normalise(pde.transform(pde.denormalise(guess), k))
        torch.testing.assert_close(turned, expected, rtol=1e-3, atol=1e-3 * spread.min().item())


@every_pde
def test_symmetries_are_those_of_the_fields_whatever_the_units(name):
    """In units with an offset too, where a field that changes its sign is not the negative of its numbers."""
    pde, channels = get_pde(name), len(get_pde(name).channels)
    fields = data(name, 2, 32).double()
    for units in (pde, in_units(pde, {"offset": [0.3] * channels, "scale": [2.0] * channels})):
        for k in range(0, pde.symmetries, max(1, pde.symmetries // 8)):
            turned = units.denormalise(units.turned(units.normalise(fields), k))
            torch.testing.assert_close(turned, pde.transform(fields, k), rtol=1e-9, atol=1e-9)


@every_pde
def test_paper_residual_has_a_floor_far_from_zero(name):
    pde, fields = get_pde(name), data(name, 4, 64)
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


def test_darcy_balance_is_the_sum_of_the_residual():
    """The scheme is conservative: what flows through the walls less the source is what the cells leave over."""
    pde, fields = get_pde("darcy"), disturbed("darcy")
    torch.testing.assert_close(pde.balance(fields), pde.residual(fields).sum((1, 2)).abs() / 8**2)


@every_pde
def test_balance_notices_a_missing_solution(name):
    pde, fields = get_pde(name), data(name, 16)
    if name == "burgers":  # without motion nothing is lost: let the mean drift by that of |u| instead
        drift = torch.linspace(0, 1, fields.shape[-2])[:, None]
        fields = fields + drift * fields[:, :, :1].abs().mean(-1, keepdim=True)
    else:
        fields[:, pde.solution_channels] = 0
    assert pde.balance(fields).min() > 0.5


@pytest.mark.parametrize("resolution", [8, 9, 32, 33])
def test_poisson_balance_of_quadrants(resolution):
    """Exact for solver data, 1 without a solution, and else what the residual leaves over in each quadrant."""
    pde, fields = get_pde("poisson"), data("poisson", 4, resolution).double()
    assert pde.balance(pde.solve(fields)).max() < 1e-12
    empty = fields.clone()
    empty[:, 1] = 0
    torch.testing.assert_close(pde.balance(empty), torch.ones(4, dtype=torch.float64))
    fields[:, 1] += 1e-3 * torch.randn(fields[:, 1].shape, generator=torch.Generator().manual_seed(0))
    for turned in (fields.flip(-1), fields.flip(-2), fields.transpose(-1, -2)):
        torch.testing.assert_close(pde.balance(turned), pde.balance(fields))
    half, odd = divmod(resolution - 2, 2)
    parts = [slice(0, half), slice(half + odd, None)]

    def quadrants(field):  # the middle lines of an odd grid count half, the centre a quarter
        corners = [[field[:, i, j].sum((1, 2)) for j in parts] for i in parts]
        if odd:
            for i, rows in enumerate(parts):
                for j, columns in enumerate(parts):
                    corners[i][j] = corners[i][j] + field[:, half, columns].sum(1) / 2 + field[:, rows, half].sum(1) / 2
                    corners[i][j] = corners[i][j] + field[:, half, half] / 4
        return torch.stack([corner for row in corners for corner in row])

    left, source = (quadrants(pde.interior(field)) for field in (pde.residual(fields), fields[:, 0]))
    torch.testing.assert_close(pde.balance(fields), left.abs().sum(0) / source.abs().sum(0))


def test_streams_differ_by_seed_purpose_and_index():
    keys = [(seed, purpose, i) for seed in (0, 1, 2**40) for purpose in (TRAINING_DATA, POOL_NOISE, BATCHES)
            for i in (0, 1, 2**31)]  # fmt: skip
    seeds = {derived_seed(*key) for key in keys}
    assert len(seeds) == len({generator(*key).integers(2**62) for key in keys}) == len(keys)
    assert all(2**62 <= seed < 2**63 for seed in seeds)
    assert derived_seed(3, TRAINING_DATA, 5) == derived_seed(3, TRAINING_DATA, 5)


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


def test_darcy_paper_residual_agrees_with_numpy():
    pde, fields = get_pde("darcy"), data("darcy", 1).double()
    a, u = fields[0].numpy()
    u_y, u_x = np.gradient(u, 1 / 32, edge_order=2)
    a_y, a_x = np.gradient(a, 1 / 32, edge_order=2)
    u_xx, u_yy = np.gradient(u_x, 1 / 32, edge_order=2)[1], np.gradient(u_y, 1 / 32, edge_order=2)[0]
    expected = -a * u_xx - a_x * u_x - a * u_yy - a_y * u_y - 1
    np.testing.assert_allclose(pde.paper_residual(fields)[0].numpy(), expected, atol=1e-9)


def test_edge_of_poisson_counts_as_boundary_violation():
    pde, fields = get_pde("poisson"), data("poisson", 2, 16)
    fields[:, 1, 0] = 1.0
    assert torch.allclose(pde.boundary_violation(fields), torch.tensor((16 / 60) ** 0.5))


@every_pde
@pytest.mark.parametrize(
    "request_",
    [(0, 32, 0), (-1, 32, 0), (1.5, 32, 0), (True, 32, 0), ("2", 32, 0), (float("nan"), 32, 0)]
    + [(1, "large", 0), (1, 0, 0), (1, 10**9, 0), (1, 32.5, 0), (1, None, 0)]
    + [(1, 32, 2**63), (1, 32, -1), (1, 32, "0"), (1, 32, 0.5), (1, 32, None), (1, 32, False)],
)
def test_bad_requests_are_refused(name, request_):
    with pytest.raises(InputError) as error:
        get_pde(name).generate(*request_)
    assert one_sentence(error)


@every_pde
def test_largest_seed_is_accepted(name):
    assert get_pde(name).generate(1, smallest(name), 2**63 - 1).isfinite().all()


@every_pde
@pytest.mark.parametrize("shape", [(2, 32, 32), (1, 7, 32, 32), (1, 2, 32, 16), (32, 32), (2, 2, 2, 32, 32)])
def test_wrong_shapes_are_refused(name, shape):
    pde = get_pde(name)
    maps = (pde.residual, pde.second_residual, pde.paper_residual, pde.error_field)
    for call in (*maps, pde.solve, pde.balance, pde.boundary_violation):
        with pytest.raises(InputError) as error:
            call(torch.zeros(shape))
        assert one_sentence(error)


@pytest.mark.parametrize("name", ["stokes", "", None, 3, "../darcy"])
def test_unknown_pde_is_refused(name):
    with pytest.raises(InputError) as error:
        get_pde(name)
    assert one_sentence(error)
    assert "darcy" in str(error.value)


@every_pde
def test_symmetries_keep_what_is_measured(name):
    pde = get_pde(name)
    fields = disturbed(name, 16)
    moved = [pde.transform(fields, k) for k in range(pde.symmetries)]
    assert torch.equal(moved[0], fields)
    for one in moved:
        for figure in (pde.residual, pde.second_residual):
            torch.testing.assert_close(rms(figure(one)), rms(figure(fields)))
        torch.testing.assert_close(pde.balance(one), pde.balance(fields))
    assert len({tuple(one.flatten().tolist()) for one in moved}) == pde.symmetries


@every_pde
def test_solutions_move_with_their_inputs(name):
    pde = get_pde(name)
    fields = data(name, 2, smallest(name)).double()
    for k in range(0, pde.symmetries, max(1, pde.symmetries // 16) | 1):
        torch.testing.assert_close(pde.solve(pde.transform(fields, k)), pde.transform(pde.solve(fields), k))


@pytest.mark.parametrize("resolution", [8, 20, 60])
def test_kolmogorov_refuses_grids_without_its_symmetries(resolution):
    with pytest.raises(InputError) as error:
        get_pde("kolmogorov").generate(1, resolution, 0)
    assert one_sentence(error)
    assert "resolution" in str(error.value)


def test_helmholtz_source_is_zero_on_the_edge():
    f = data("helmholtz", 3, 16)[:, 0]
    assert f[:, 1:-1, 1:-1].abs().min() > 0
    assert not any(edge.any() for edge in (f[:, 0], f[:, -1], f[:, :, 0], f[:, :, -1]))


@pytest.mark.parametrize("name", ["burgers", "kolmogorov"])
def test_columns_wrap_around(name):
    pde, fields = get_pde(name), disturbed(name, 16)
    for figure in (pde.residual, pde.second_residual, pde.error_field):
        torch.testing.assert_close(figure(fields.roll(3, -1)), figure(fields).roll(3, -1))
