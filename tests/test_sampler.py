"""The sampler against a denoiser whose flow is known exactly, and its promises about noise, seeds and counts."""

import numpy as np
import pytest
import torch
from scipy.fft import idctn
from tiny import tiny_denoiser

from pirf_app.diffusion.sampler import Schedule, check_steps, heun, initial_noise, sample
from pirf_app.pdes import InputError, get_pde, pde_names
from pirf_app.pdes.random_fields import neumann_spectrum


def test_noise_levels():
    levels = Schedule(steps=18, sigma_min=0.02, sigma_max=80.0).sigmas()
    assert levels.shape == (19,)
    assert levels[0] == pytest.approx(80.0)
    assert levels[-2] == pytest.approx(0.02)
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
    roots = levels[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(17))


@pytest.mark.parametrize("steps", [2, 5, 80])
def test_count_of_steps_and_evaluations(steps):
    calls = []

    def denoiser(x, sigma):
        calls.append(float(sigma))
        return 0.5 * x

    states = list(heun(denoiser, torch.ones(1, 1, 8, 8), Schedule(steps)))
    assert [s.step for s in states] == list(range(1, steps + 1))
    assert states[-1].nfe == len(calls) == 2 * steps - 1
    assert states[-1].sigma == 0
    assert min(calls) > 0
    assert torch.equal(states[-1].x, states[-1].denoised)


class PoissonFlow:
    """The probability flow of Poisson data on an N x N grid, which is Gaussian.

    Fields are a linear map J of white noise, so their covariance in normalised units is C = J J^T = V diag(lam) V^T
    and the ideal denoiser C (C + sigma^2)^-1 x. In the basis V the flow dx/dsigma = sigma x / (lam + sigma^2)
    integrates to x ~ sqrt(lam + sigma^2)."""

    def __init__(self, resolution: int = 16):
        pde = get_pde("poisson")
        units = np.eye(resolution**2).reshape(-1, resolution, resolution)
        f = idctn(neumann_spectrum(resolution) * units, axes=(1, 2), norm="ortho")
        fields = torch.from_numpy(np.stack([f, pde._invert(f)], 1))
        jacobian = pde.normalise(fields).flatten(1)
        lam, self.vectors = torch.linalg.eigh(jacobian.T @ jacobian)
        self.lam = lam.clamp_min(0)
        self.shape = (2, resolution, resolution)

    def scaled(self, x, factor):
        return (x.flatten(1) @ self.vectors * factor @ self.vectors.T).view_as(x)

    def denoiser(self, x, sigma):
        return self.scaled(x, self.lam / (self.lam + sigma**2))

    def exact(self, x, start, end):
        return self.scaled(x, ((self.lam + end**2) / (self.lam + start**2)).sqrt())


@pytest.fixture(scope="module")
def flow():
    return PoissonFlow()


def test_covariance_of_the_flow_is_that_of_the_data(flow):
    pde = get_pde("poisson")
    x = pde.normalise(pde.generate(2000, 16, 1)).double().flatten(1)
    measured = (x @ flow.vectors).square().mean(0)
    largest = slice(-20, None)
    torch.testing.assert_close(measured[largest], flow.lam[largest], rtol=0.15, atol=0)


def test_sampler_is_of_second_order(flow):
    """Compared at sigma_min: what comes after is one Euler step to 0 whose length, hence whose error, is the same for
    any number of steps."""
    noise = initial_noise(4, flow.shape, 0).double()
    errors = []
    for steps in (20, 40, 80, 160):
        schedule = Schedule(steps)
        *_, last, final = heun(flow.denoiser, noise, schedule)
        assert last.sigma == pytest.approx(schedule.sigma_min)
        exact = flow.exact(80.0 * noise, 80.0, schedule.sigma_min)
        errors.append(((last.x - exact).norm() / exact.norm()).item())
        torch.testing.assert_close(final.x, flow.denoiser(last.x, schedule.sigma_min))
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert orders.min() > 1.8
    assert errors[-1] < 1e-3


def test_samples_of_the_exact_denoiser_are_distributed_like_data(flow):
    noise = initial_noise(500, flow.shape, 3).double()
    x, _ = sample(flow.denoiser, noise, Schedule(40))
    measured = (x.flatten(1) @ flow.vectors).square().mean(0)
    torch.testing.assert_close(measured[-10:], flow.lam[-10:], rtol=0.3, atol=0)
    physical = get_pde("poisson").denormalise(x)
    solved = get_pde("poisson").solve(physical)
    assert (solved - physical)[:, 1].norm() < 0.02 * solved[:, 1].norm()


def test_noise_of_sample_k_depends_on_seed_and_k_alone():
    eight = initial_noise(8, (2, 16, 16), 5)
    assert torch.equal(initial_noise(1, (2, 16, 16), 5), eight[:1])
    assert torch.equal(initial_noise(3, (2, 16, 16), 5), eight[:3])
    assert not torch.equal(initial_noise(1, (2, 16, 16), 6), eight[:1])
    assert eight.dtype == torch.float32
    many = initial_noise(64, (2, 16, 16), 0)
    assert abs(many.mean()) < 0.03
    assert many.std() == pytest.approx(1, abs=0.03)
    correlation = torch.corrcoef(many.flatten(1)) - torch.eye(64)
    assert correlation.abs().max() < 0.3


@pytest.mark.parametrize("name", pde_names())
def test_sample_k_is_the_same_alone_and_in_a_batch(name):
    model, shape = tiny_denoiser(name), (len(get_pde(name).channels), 16, 16)
    alone, _ = sample(model, initial_noise(1, shape, 9), Schedule(6))
    batch, _ = sample(model, initial_noise(8, shape, 9), Schedule(6))
    assert alone.isfinite().all()
    assert not alone.requires_grad
    torch.testing.assert_close(batch[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", pde_names())
def test_noise_and_data_of_one_seed_are_unrelated(name):
    fields = get_pde(name).generate(200, 16, 4)
    noise = initial_noise(200, (2, 16, 16), 4)
    first = torch.stack([fields[:, 0].flatten(1), noise[:, 0].flatten(1)])
    first = first - first.mean(1, keepdim=True)
    correlation = (first[0] * first[1]).sum(0) / (first[0].norm(dim=0) * first[1].norm(dim=0))
    assert correlation.abs().max() < 0.35


@pytest.mark.parametrize("steps", [0, 1, -5, 10**9, 2.5, float("nan"), "ten", None, True])
def test_bad_steps_are_refused(steps):
    for call in (check_steps, Schedule, Schedule().with_steps):
        with pytest.raises(InputError, match="^steps must be a whole number from 2 to [^\n]*$"):
            call(steps)


@pytest.mark.parametrize(
    "values",
    [
        {"sigma_min": 0.0},
        {"sigma_min": float("nan")},
        {"sigma_min": 90.0},
        {"sigma_max": float("inf")},
        {"sigma_max": 1e9},
        {"sigma_max": "80"},
        {"rho": 0.0},
        {"rho": -1.0},
        {"rho": 1e9},
        {"rho": None},
        {"rho": True},
    ],
)
def test_bad_schedules_are_refused(values):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        Schedule(10, **values)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (1.0, 0), ("1", 0), (1, 2**63), (1, -1), (1, 0.5), (1, "x")])
def test_bad_noise_requests_are_refused(n, seed):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        initial_noise(n, (2, 8, 8), seed)
