"""The conservation law of every benchmark closes for solver data, and for nothing that only looks like it."""

import numpy as np
import pytest
import torch
from pde_data import data, evolving, time_axis

from pirf_app.evaluation.figures import CLOSED
from pirf_app.pdes import get_pde, pde_names

RESOLUTION, SAMPLES = 64, 16


def rate(name: str, fields: torch.Tensor) -> float:
    return (get_pde(name).balance(fields) <= CLOSED).float().mean().item()


def solver_data(name: str) -> torch.Tensor:
    return data(name, SAMPLES, RESOLUTION).double()


every_law = pytest.mark.parametrize("name", [name for name in pde_names() if get_pde(name).offers("balance")])


@every_law
def test_it_closes_for_solver_data(name):
    assert get_pde(name).balance(solver_data(name)).max() < 0.1 * CLOSED


@every_law
def test_it_does_not_close_for_the_solution_of_another_input(name):
    pde, fields = get_pde(name), solver_data(name)
    assert rate(name, pde.hold_inputs(fields.roll(1, 0), fields)) < 0.1


@every_law
def test_it_does_not_close_for_smooth_noise_of_a_fifth(name):
    """Of what the solution adds to the input: Kolmogorov's frames differ from the first by their change alone."""
    pde, fields = get_pde(name), solver_data(name)
    draw = np.random.default_rng(5)
    k = np.fft.fftfreq(RESOLUTION, 1 / RESOLUTION)
    low = np.hypot(k[:, None], k[None, :]) < 4
    noise = np.fft.ifft2(np.fft.fft2(draw.standard_normal(fields.shape)) * low).real
    noise = torch.from_numpy(noise / noise.std())
    size = pde.solve_error(pde.hold_inputs(fields + 1e-3 * noise, fields)).median() / 1e-3
    assert rate(name, pde.hold_inputs(fields + 0.2 / size * noise, fields)) < 0.1


@every_law
def test_it_does_not_close_for_white_noise(name):
    pde, fields = get_pde(name), solver_data(name)
    noise = torch.randn(fields.shape, dtype=fields.dtype, generator=torch.Generator().manual_seed(0))
    assert rate(name, pde.denormalise(noise / 2)) == 0


@evolving
@pytest.mark.parametrize("how", ["frozen", "reversed"])
def test_it_does_not_close_for_another_course_of_time(name, how):
    fields, axis = solver_data(name), time_axis(name)
    turned = fields.flip(axis) if how == "reversed" else fields.narrow(axis, 0, 1).expand_as(fields)
    assert rate(name, turned) == 0


@pytest.mark.parametrize("frames", [(0, 0, 2), (0, 1, 1), (0, 2, 2), (0, 0, 1)])
def test_it_does_not_close_for_frames_that_are_repeated(frames):
    assert rate("kolmogorov", solver_data("kolmogorov")[:, frames]) == 0


@pytest.mark.parametrize("name", ["darcy", "poisson", "helmholtz"])
@pytest.mark.parametrize("resolution", [8, 10, 33])
def test_a_balance_over_squares_is_what_the_residual_leaves_in_them(name, resolution):
    """On grids too that four does not divide: the schemes are conservative, and a cell counts by its part."""
    pde, fields = get_pde(name), data(name, 3, resolution).double()
    assert pde.balance(pde.solve(fields)).max() < 1e-10
    fields[:, 1] += 0.1 * pde.channels[1].std * torch.randn(fields[:, 1].shape, dtype=fields.dtype)
    residual = pde.interior(pde.residual(fields))
    source = torch.ones_like(residual)
    if name != "darcy":
        source = pde.interior(fields[:, 0] - pde.shift * fields[:, 1])
    times = 4  # every cell as 4 x 4 small ones: then whole ones lie in every square

    def squares(field):
        fine = field.repeat_interleave(times, 1).repeat_interleave(times, 2)
        size = fine.shape[-1] // 4
        return fine.unfold(1, size, size).unfold(2, size, size).sum((3, 4)).abs().sum((1, 2))

    torch.testing.assert_close(pde.balance(fields), squares(residual) / squares(source))
