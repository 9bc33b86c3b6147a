"""Burgers and Kolmogorov: exact solutions, orders of convergence in time, and the statistics of their data."""

import numpy as np
import pytest
import torch

from pirf_app.common.streams import SOLVER_DATA, generator
from pirf_app.pdes import get_pde, kolmogorov
from pirf_app.pdes.burgers import VISCOSITY, simulate
from pirf_app.pdes.kolmogorov import SNAPSHOTS
from pirf_app.pdes.random_fields import periodic_field, periodic_spectrum
from pirf_app.pdes.spectral import Etdrk4, kept_modes
from pirf_app.pdes.stencils import rms
from pirf_app.pdes.vorticity import DT, FORCING, reynolds, simulator

pi = np.pi


def orders(errors: list[float]) -> np.ndarray:
    """Observed orders of convergence of errors at successively halved steps."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def grid_2d(n: int) -> tuple[np.ndarray, np.ndarray]:
    line = 2 * pi * np.arange(n) / n
    return line[None, :], line[:, None]


@pytest.mark.parametrize("rate", [0.0, -1.0, -30.0])
def test_etdrk4_is_fourth_order(rate):
    """v' = rate v - v^2, which is Bernoulli's equation."""
    growth = np.exp(rate)
    exact = growth / (1 + (growth - 1) / rate) if rate else 0.5

    def error(steps: int) -> float:
        v = Etdrk4(np.array([rate]), 1 / steps).advance(np.ones(1), lambda v: -(v**2), steps)[0]
        return abs(v / exact - 1)

    assert orders([error(steps) for steps in (16, 32, 64)]).min() > 3.7


@pytest.mark.parametrize("resolution", [8, 9, 64, 128, 256])
def test_kept_modes_do_not_fold_back(resolution):
    k = kept_modes(resolution)
    assert 2 * k - resolution < -k
    assert 3 * (k + 1) >= resolution


def test_burgers_initial_state_has_the_reference_deviation():
    assert np.sqrt((periodic_spectrum(kept_modes(64)) ** 2).sum()) == pytest.approx(0.274, rel=2e-3)
    u0 = periodic_field(range(8000), 64, kept_modes(64), 0)
    assert u0.std() == pytest.approx(0.274, rel=0.02)
    assert np.abs(u0.mean(1)).max() < 1e-12
    amplitudes = np.sqrt((np.abs(np.fft.rfft(u0)[:, 1:22]) ** 2).mean(0)) / 32
    np.testing.assert_allclose(amplitudes, np.sqrt(2) * periodic_spectrum(21), rtol=0.05)


def test_burgers_fields_are_the_same_on_every_grid():
    coarse, fine = (get_pde("burgers").generate(3, n, 1)[:, 0, 0] for n in (64, 128))
    torch.testing.assert_close(coarse, fine[:, ::2], atol=5e-3, rtol=0)


def cole_hopf(n: int, a: float = 0.7) -> np.ndarray:
    """u = -2 nu phi_x / phi with phi = 1 + a exp(-nu k^2 t) cos k x: an exact solution, `[n, n]`."""
    t, k, x = np.linspace(0, 1, n)[:, None], 2 * pi, np.arange(n) / n
    wave = a * np.exp(-VISCOSITY * k**2 * t)
    return 2 * VISCOSITY * k * wave * np.sin(k * x) / (1 + wave * np.cos(k * x))


def test_burgers_solver_is_spectrally_accurate():
    exact = {n: cole_hopf(n) for n in (16, 32, 64)}
    errors = [np.abs(simulate(u[None, 0], n)[0] - u).max() for n, u in exact.items()]
    assert errors[0] > 30 * errors[1] > 30 * 300 * errors[2]
    assert errors[2] < 1e-8
    fields = torch.from_numpy(exact[64])[None, None]
    assert rms(get_pde("burgers").residual(fields)) < 1e-6
    assert get_pde("burgers").solve_error(fields) < 1e-7


def test_burgers_solver_is_fourth_order_in_time():
    u0 = periodic_field(range(4), 64, 21, 3)
    reference = simulate(u0, 64, 16)
    errors = [np.abs(simulate(u0, 64, substeps) - reference).max() for substeps in (1, 2, 4)]
    assert orders(errors).min() > 3.7
    assert errors[1] < 1e-5  # with the substeps of the data


def test_burgers_residual_is_fourth_order_in_time():
    """The solver's own spatial discretisation on every grid, so what is left is the error in time."""

    def left(n: int) -> float:
        x = np.arange(n) / n
        u0 = 0.3 * np.sin(2 * pi * x) + 0.1 * np.cos(4 * pi * x)
        fields = torch.from_numpy(simulate(u0[None], n, 8))[:, None]
        return rms(get_pde("burgers").residual(fields)).item()

    assert orders([left(n) for n in (33, 65, 129)]).min() > 3.7


def test_burgers_second_residual_converges():
    left = [rms(get_pde("burgers").second_residual(torch.from_numpy(cole_hopf(n, 0.5))[None, None])) for n in (32, 64)]
    assert orders([one.item() for one in left]).min() > 3.7


@pytest.mark.parametrize("k", [1, 3, 8])
def test_burgers_error_field_is_the_error_in_the_linear_limit(k):
    """A solution of the heat equation plus an error that grows and moves, too small for advection to matter."""
    pde, n = get_pde("burgers"), 64
    t, x = np.linspace(0, 1, n)[:, None], np.arange(n) / n
    error = np.sin(2 * t) * np.sin(2 * pi * k * x + t)
    solution = np.exp(-VISCOSITY * (2 * pi * k) ** 2 * t) * np.cos(2 * pi * k * x)
    fields = 1e-7 * torch.from_numpy(solution + error)[None, None]
    found = pde.error_field(fields)[0].numpy() * pde.channels[0].std / 1e-7
    np.testing.assert_allclose(found[1:-1], error[1:-1], atol=0.01)
    still = 1e-7 * torch.from_numpy(solution)[None, None]
    assert pde.error_field(still).abs().max() < 1e-8


@pytest.mark.parametrize("resolution", [16, 32, 256])
def test_kolmogorov_laminar_flow_is_steady(resolution):
    pde = get_pde("kolmogorov")
    _, y = grid_2d(resolution)
    laminar = -FORCING * np.cos(4 * y) / (16 / reynolds(resolution) + 0.1)
    fields = torch.from_numpy(np.tile(laminar, (1, 3, 1, resolution)))
    assert pde.residual(fields).abs().max() < 1e-8
    assert pde.paper_residual(fields).abs().max() < 1e-8
    assert pde.balance(fields) < 1e-9
    torch.testing.assert_close(pde.solve(fields), fields)


def on_one_shell(n: int) -> torch.Tensor:
    """Vorticity with all its waves at wavenumber 4, where advection cancels: each relaxes to laminar flow by itself."""
    x, y = grid_2d(n)
    rate = 16 / reynolds(n) + 0.1
    start = 3 * np.cos(4 * x) - 2 * np.sin(4 * x) + 5 * np.sin(4 * y)
    laminar = -FORCING * np.cos(4 * y) / rate + 0 * x
    frames = [laminar + np.exp(-rate * DT * i) * (start - laminar) for i in range(3)]
    return torch.from_numpy(np.stack(frames))[None]


def test_kolmogorov_exact_solution():
    pde, fields = get_pde("kolmogorov"), on_one_shell(32)
    torch.testing.assert_close(pde.solve(fields), fields, rtol=0, atol=1e-10)
    assert pde.residual(fields).abs().max() < 1e-7
    assert pde.error_field(fields).abs().max() < 1e-7
    assert pde.balance(fields) < 1e-7


def test_kolmogorov_advection_has_the_right_sign():
    """w = cos x + cos 2y has the stream function cos x + cos(2y) / 4, so u . grad w = -1.5 sin x sin 2y."""
    n = 32
    x, y = grid_2d(n)
    w = np.cos(x) + np.cos(2 * y)
    viscous = -(np.cos(x) + 4 * np.cos(2 * y)) / reynolds(n)
    expected = viscous - 0.1 * w - 4 * np.cos(4 * y) + 1.5 * np.sin(x) * np.sin(2 * y)
    found = get_pde("kolmogorov").right_hand_side(torch.from_numpy(w)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    sim = simulator(n)
    state = sim.transform(w)
    np.testing.assert_allclose(sim.field(sim.nonlinear(state) + sim.waves.linear * state), expected, atol=1e-12)


@pytest.fixture(scope="module")
def turbulent() -> np.ndarray:
    """States of the solver at 32 in the steady regime, `[4, 32, 11]`."""
    return simulator(32).transform(get_pde("kolmogorov").generate(4, 32, 9)[:, 0].double().numpy())


def test_kolmogorov_solver_is_fourth_order_in_time(turbulent):
    sim = simulator(32)
    run = lambda steps: sim.field(sim.advance(turbulent, steps, 4 * steps))  # noqa: E731
    reference = run(256)
    assert orders([np.abs(run(steps) - reference).max() for steps in (16, 32, 64)]).min() > 3.7


def test_kolmogorov_residual_and_error_are_of_the_stated_order(turbulent, monkeypatch):
    """Halving the time between frames: the residual and frame 2's error fall by 2^4, frame 3's by 2^5."""
    pde, sim = get_pde("kolmogorov"), simulator(32)
    left = {"residual": [], "frame 2": [], "frame 3": []}
    for halvings in range(3):
        dt = DT / 2**halvings
        monkeypatch.setattr(kolmogorov, "DT", dt)
        states = [sim.advance(turbulent, 16 * i, round(16 / dt)) if i else turbulent for i in range(3)]
        fields = torch.from_numpy(np.stack([sim.field(v) for v in states], 1))
        second, third = pde.error_field(fields).chunk(2, 1)
        for key, value in zip(left, (pde.residual(fields), second, third), strict=True):
            left[key].append(rms(value).mean().item())
    assert orders(left["residual"]).min() > 3.7
    assert orders(left["frame 2"]).min() > 3.7
    assert orders(left["frame 3"]).min() > 4.7


def test_kolmogorov_error_field_is_the_error_of_a_frame(turbulent):
    pde, sim = get_pde("kolmogorov"), simulator(32)
    fields = torch.from_numpy(np.stack([sim.field(v) for v in sim.frames(turbulent)], 1))
    x, y = grid_2d(32)
    error = torch.from_numpy(np.sin(x + 2 * y))
    for frame in (1, 2):
        wrong = fields.clone()
        wrong[:, frame] += 1e-3 * error
        found = pde.error_field(wrong).chunk(2, 1)[frame - 1] * pde.CHANGE / 1e-3
        assert rms(found - error).max() < 0.15 * error.std()


def test_kolmogorov_second_residual_converges_in_space():
    """The error in time is the same on both grids, and small here: what falls is that of the differences in space."""
    left = [rms(get_pde("kolmogorov").second_residual(on_one_shell(n))).item() for n in (16, 32)]
    assert orders(left).min() > 3.5


def test_kolmogorov_frames_are_a_thirty_second_apart():
    """Frame 3 is what short steps over 2/32 make of frame 1."""
    sim = simulator(32)
    first = sim.trajectory(generator(0, SOLVER_DATA, 0), 1)[0]
    again = sim.field(sim.advance(sim.transform(first[0]), 16, 256))
    np.testing.assert_allclose(again, first[2], atol=1e-4 * first.std())


def test_kolmogorov_data_is_statistically_steady():
    """Energy and enstrophy of the first and second half of four trajectories; their scatter from one to another is
    about 15 % of the mean."""
    pde = get_pde("kolmogorov")
    w = pde.generate(4 * SNAPSHOTS, 32, 2)[:, 0].view(4, 2, SNAPSHOTS // 2, 32, 32)
    velocity = pde.velocity(torch.fft.rfft2(w))
    for size in (velocity.square().sum(-3), w.square()):
        first, second = size.mean((0, 2, 3, 4))
        assert abs(first - second) < 0.2 * (first + second) / 2
    assert w.mean((-2, -1)).abs().max() < 1e-5
    assert w.std() == pytest.approx(pde.channels[0].std, rel=0.15)
