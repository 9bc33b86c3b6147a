"""The residuals that the PIRF authors define, written down anew point by point and held against the library's."""

import numpy as np
import pytest
import torch
from pde_data import data

from pirf_app.pdes import get_pde

NU, DT = 0.01, 1 / 32


def central(u, axis):
    """First difference with copied edge values, grid spacing 1/N."""
    padded = np.pad(u, [(1, 1) if a == axis else (0, 0) for a in range(2)], mode="edge")
    after, before = (np.take(padded, range(i, i + len(u)), axis) for i in (2, 0))
    return (after - before) * len(u) / 2


def first(u, axis, h):
    """Second order, one-sided at the two ends."""
    return np.gradient(u, h, axis=axis, edge_order=2)


def second(u, axis, h):
    """Direct second difference, one-sided (2, -5, 4, -1) at the two ends."""
    u = np.moveaxis(u, axis, 0)
    out = np.empty_like(u)
    for i in range(len(u)):
        if i == 0:
            out[i] = 2 * u[0] - 5 * u[1] + 4 * u[2] - u[3]
        elif i == len(u) - 1:
            out[i] = 2 * u[-1] - 5 * u[-2] + 4 * u[-3] - u[-4]
        else:
            out[i] = u[i - 1] - 2 * u[i] + u[i + 1]
    return np.moveaxis(out, 0, axis) / h**2


def burgers(fields):
    (u,) = fields
    return central(u, 0) + u * central(u, 1) - NU * central(central(u, 1), 1)


def darcy(fields):
    a, u = np.where(fields[0] >= 7.5, 12.0, 3.0), fields[1]
    h = 1 / len(u)
    flux = sum(a * second(u, axis, h) + first(a, axis, h) * first(u, axis, h) for axis in (0, 1))
    return -flux - 1


def poisson(fields, shift=0.0):
    f, u = fields
    padded = np.pad(u, 1, mode="edge")
    around = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
    return (around - 4 * u) * (len(u) - 1) ** 2 + shift * u - f


def kolmogorov(fields):
    """Derivatives by matrices that differentiate the trigonometric interpolant, products on the grid itself."""
    n = fields.shape[-1]
    k = np.fft.fftfreq(n, 1 / n)
    one = np.where(np.abs(k) < n / 2, 1j * k, 0)
    by_wave = lambda w, factor: np.fft.ifft2(factor * np.fft.fft2(w)).real  # noqa: E731
    d_x, d_y = one[None, :], one[:, None]
    squared = k[:, None] ** 2 + k[None, :] ** 2
    w = fields[1]
    stream = by_wave(w, np.divide(1, squared, out=np.zeros_like(squared), where=squared > 0))
    u, v = by_wave(stream, d_y), -by_wave(stream, d_x)
    y = 2 * np.pi * np.arange(n)[:, None] / n
    right = by_wave(w, -squared) / 100 - 0.1 * w - 4 * np.cos(4 * y) - u * by_wave(w, d_x) - v * by_wave(w, d_y)
    return (fields[2] - fields[0]) / (2 * DT) - right


FORMULAS = {
    "burgers": burgers,
    "darcy": darcy,
    "poisson": poisson,
    "helmholtz": lambda fields: poisson(fields, shift=1.0),
    "kolmogorov": kolmogorov,
}


def smooth(name: str, n: int = 3, resolution: int = 24) -> torch.Tensor:
    """Fields that solve nothing: a few random waves a channel, float64."""
    draw = np.random.default_rng(3)
    t = np.arange(resolution) / resolution
    fields = np.zeros((n, len(get_pde(name).channels), resolution, resolution))
    for field in fields.reshape(-1, resolution, resolution):
        for _ in range(4):
            a, b, phase, size = *draw.integers(0, 4, 2), draw.uniform(0, 6), draw.normal()
            field += size * np.cos(2 * np.pi * (a * t[:, None] + b * t[None, :]) + phase)
    return get_pde(name).denormalise(torch.from_numpy(fields) / 2)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("kind", ["solver data", "smooth"])
def test_paper_residual_is_the_papers_formula(name, kind):
    fields = data(name, 3).double() if kind == "solver data" else smooth(name)
    found = get_pde(name).paper_residual(fields).numpy()
    for one, mine in zip(fields.numpy(), found, strict=True):
        expected = FORMULAS[name](one)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
