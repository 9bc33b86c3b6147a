"""The contract that every benchmark keeps. A new PDE is picked up here without a new test."""

import pytest
import torch
from pde_data import SEED, data, every_pde, smallest

from pirf_app.common.checks import InputError
from pirf_app.common.streams import BATCHES, POOL_NOISE, TRAINING_DATA, derived_seed, generator
from pirf_app.pdes import get_pde, pde_names
from pirf_app.pdes.stencils import rms
from pirf_app.pdes.units import in_units


def one_sentence(error) -> bool:
    text = str(error.value)
    return bool(text) and "\n" not in text and len(text) < 300


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


def test_streams_differ_by_seed_purpose_and_index():
    keys = [(seed, purpose, i) for seed in (0, 1, 2**40) for purpose in (TRAINING_DATA, POOL_NOISE, BATCHES)
            for i in (0, 1, 2**31)]  # fmt: skip
    seeds = {derived_seed(*key) for key in keys}
    assert len(seeds) == len({generator(*key).integers(2**62) for key in keys}) == len(keys)
    assert all(2**62 <= seed < 2**63 for seed in seeds)
    assert derived_seed(3, TRAINING_DATA, 5) == derived_seed(3, TRAINING_DATA, 5)


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
    optional = [getattr(pde, measure) for measure in ("paper_residual", "balance") if pde.offers(measure)]
    for call in (pde.residual, pde.second_residual, pde.error_field, pde.solve, pde.boundary_violation, *optional):
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
