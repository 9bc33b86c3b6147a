"""Manufactured solutions: the discretisations converge at second order, and the random fields are as stated."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from pirf_app.pdes import get_pde
from pirf_app.pdes.darcy import solve_banded
from pirf_app.pdes.random_fields import neumann_field, neumann_spectrum
from pirf_app.pdes.stencils import divergence_averaged, divergence_flux, gradient_2nd, laplacian_5pt, laplacian_9pt

GRIDS = (16, 32, 64)
pi, sin, cos = torch.pi, torch.sin, torch.cos


def observed_orders(error_of, grids=GRIDS) -> np.ndarray:
    errors = np.array([error_of(n) for n in grids])
    return np.log2(errors[:-1] / errors[1:]) / np.log2(np.array(grids[1:]) / np.array(grids[:-1]))


def vertices(n: int):
    line = torch.linspace(0, 1, n, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def centres(n: int):
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def polynomial(x, y):
    """u = x (1-x)^2 (e^y - 1)(1 - y), without symmetry, zero on the edge; and its Laplacian."""
    p, p_xx = x * (1 - x) ** 2, 6 * x - 4
    q, q_yy = (y.exp() - 1) * (1 - y), -y.exp() * (1 + y)
    return p * q, p_xx * q + p * q_yy


def sines(x, y):
    u = sin(pi * x) * sin(pi * y)
    return u, -2 * pi**2 * u


@pytest.mark.parametrize("exact", [sines, polynomial])
@pytest.mark.parametrize("name", ["poisson", "helmholtz"])
def test_poisson_solver_converges(exact, name):
    pde = get_pde(name)

    def error(vertex_count):
        u, lap_u = exact(*vertices(vertex_count))
        fields = torch.stack([lap_u + pde.shift * u, torch.zeros_like(u)])[None]
        return (pde.solve(fields)[0, 1] - u).abs().max()

    assert observed_orders(error, [g + 1 for g in GRIDS]).min() > 1.9


@pytest.mark.parametrize("exact", [sines, polynomial])
@pytest.mark.parametrize("laplacian", [laplacian_5pt, laplacian_9pt])
def test_laplacian_converges(exact, laplacian):
    def error(n):
        u, f = exact(*vertices(n + 1))
        return (laplacian(u, 1 / n) - f[1:-1, 1:-1]).abs().max()

    assert observed_orders(error, (32, 64, 128)).min() > 1.9


@pytest.mark.parametrize("dim", [-1, -2])
def test_one_sided_gradient_converges(dim):
    def error(n):
        x, y = vertices(n + 1)
        u, along, other = sin(3 * x + 1) * cos(2 * y), 3 * cos(3 * x + 1) * cos(2 * y), -2 * sin(3 * x + 1) * sin(2 * y)
        return (gradient_2nd(u, 1 / n, dim) - (along if dim == -1 else other)).abs().max()

    assert observed_orders(error).min() > 1.9


def heterogeneous(n: int):
    """A smooth coefficient a, u zero on the edge, and f = -div(a grad u), at cell centres."""
    x, y = (t.requires_grad_() for t in centres(n))
    a = 2 + sin(2 * x + y) + 0.5 * cos(3 * y)
    u = sin(pi * x) * (y * (1 - y)) * (1 + x)
    u_x, u_y = torch.autograd.grad(u.sum(), (x, y), create_graph=True)
    div = torch.autograd.grad((a * u_x).sum(), x, retain_graph=True)[0] + torch.autograd.grad((a * u_y).sum(), y)[0]
    return a.detach(), u.detach(), -div


@pytest.mark.parametrize("divergence", [divergence_flux, divergence_averaged])
def test_finite_volume_fluxes_converge_inside(divergence):
    """The half cells at the walls are consistent to first order only, which the solution does not feel: next test."""

    def error(n):
        a, u, f = heterogeneous(n)
        return (divergence(a, u, 1 / n) - f)[1:-1, 1:-1].abs().max()

    assert observed_orders(error).min() > 1.9


def test_finite_volume_solution_converges():
    def error(n):
        a, u, f = heterogeneous(n)
        units = torch.eye(n * n, dtype=torch.float64).view(-1, n, n)
        operator = divergence_flux(a, units, 1 / n).flatten(1).T
        return (torch.linalg.solve(operator, f.flatten()).view(n, n) - u).abs().max()

    assert observed_orders(error, (8, 16, 32)).min() > 1.9


def membrane(x, y, terms: int = 60):
    """The exact solution of -lap u = 1 with u = 0 on the edge of the unit square."""
    k = np.arange(1, 2 * terms, 2)[:, None, None] * np.pi
    decay = (np.exp(-k * y) + np.exp(-k * (1 - y))) / (1 + np.exp(-k))
    return x * (1 - x) / 2 - (4 * np.sin(k * x) / k**3 * decay).sum(0)


def test_darcy_solver_converges_in_a_uniform_medium():
    def error(n):
        x, y = (t.numpy() for t in centres(n))
        return np.abs(3 * solve_banded(np.full((n, n), 3.0)) - membrane(x, y)).max()

    assert observed_orders(error).min() > 1.9


def test_darcy_solver_converges_in_a_smooth_medium():
    """Against a fine grid: the mean of the fine cells in a coarse one differs from its centre value by O(h^2)."""
    x, y = (t.numpy() for t in centres(128))
    fine = solve_banded(3 + np.sin(4 * x) * np.cos(3 * y))

    def error(n):
        x, y = (t.numpy() for t in centres(n))
        coarse = fine.reshape(n, 128 // n, n, 128 // n).mean((1, 3))
        return np.abs(solve_banded(3 + np.sin(4 * x) * np.cos(3 * y)) - coarse).max()

    assert observed_orders(error, (16, 32)).min() > 1.9


def test_darcy_solver_crosses_a_layered_medium():
    """Series resistance across a jump: the harmonic mean gives the exact flux through a stack of thin layers."""
    a = np.full((32, 32), 3.0)
    a[:, 16:] = 12.0
    u = torch.from_numpy(solve_banded(a))
    torch.testing.assert_close(divergence_flux(torch.from_numpy(a), u, 1 / 32), torch.ones(32, 32, dtype=torch.float64))
    assert u[16, 8] > u[16, 24] > 0  # less pressure builds up where the medium lets more through


def test_random_field_has_the_stated_covariance():
    fields = neumann_field(2000, 16, 3)
    assert np.abs(fields.mean((1, 2))).max() < 1e-12
    measured = dctn(fields, axes=(1, 2), norm="ortho").std(0)
    expected = neumann_spectrum(16)
    assert expected[0, 0] == 0
    np.testing.assert_allclose(measured.ravel()[1:], expected.ravel()[1:], rtol=0.1)
    k = np.array([1, 3])
    eigenvalue = (9 / (np.pi**2 * (k**2).sum() + 9) ** 2) ** 0.5
    assert expected[1, 3] / 16 == pytest.approx(eigenvalue)


def test_modes_of_a_random_field_are_uncorrelated():
    modes = dctn(neumann_field(4000, 8, 4), axes=(1, 2), norm="ortho").reshape(4000, -1)[:, 1:]
    off_diagonal = np.corrcoef(modes.T) - np.eye(63)
    assert np.abs(off_diagonal).max() < 0.1


@pytest.mark.parametrize("resolution", [32, 64])
def test_poisson_source_has_the_reference_deviation(resolution):
    assert 0.28 < neumann_field(1000, resolution, 5).std() < 0.305


def test_random_field_is_the_same_on_every_grid_in_law():
    """Refining the grid adds small scales only: deviation and spectrum per unit area stay."""
    spectra = [neumann_spectrum(n) / n for n in (16, 32)]
    np.testing.assert_allclose(spectra[0], spectra[1][:16, :16])
