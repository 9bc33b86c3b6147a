"""The samplers against denoisers whose flow is known, and their promises about noise, seeds, counts and sharing."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.fft import idctn
from tiny import PRIORS, small_prior, tiny_denoiser, tuned_from

from pirf_app.common.checks import InputError
from pirf_app.diffusion.sampler import SOLVERS, Schedule, check_steps, initial_noise, sample, together, trajectory
from pirf_app.pdes import get_pde, pde_names
from pirf_app.pdes.random_fields import neumann_spectrum

pytestmark = pytest.mark.usefixtures("quick_data")
every_pde = pytest.mark.parametrize("name", pde_names())
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def test_noise_levels():
    levels = Schedule(steps=18, sigma_min=0.02, sigma_max=80.0).sigmas()
    assert levels.shape == (19,)
    assert levels[0] == pytest.approx(80.0)
    assert levels[-2] == pytest.approx(0.02)
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
    roots = levels[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(17))


@every_solver
@pytest.mark.parametrize("steps", [2, 5, 80])
def test_count_of_steps_and_evaluations(solver, steps):
    calls = []

    def denoiser(x, sigma):
        calls.append(float(sigma))
        return 0.5 * x

    states, counts = [], []
    for step in trajectory(denoiser, torch.ones(1, 1, 8, 8), Schedule(steps, solver=solver)):
        states.append(step)
        counts.append(len(calls))
    assert [s.step for s in states] == list(range(1, steps + 1))
    assert [s.nfe for s in states] == counts
    assert counts[-1] == {"heun": 2 * steps - 1, "multistep": steps}[solver]
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


class Gaussian:
    """The ideal denoiser of the Gaussian that `prior` stands for: the linear estimate, the network's part zero."""

    def __init__(self, prior):
        self.prior = prior

    def __call__(self, x, sigma):
        return self.prior.condition(x, sigma.expand(len(x)))[0]


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("steps", [2, 7])
def test_multistep_is_exact_for_a_gaussian(kind, steps):
    """In two steps as in many: noise times sqrt(v + sigma_min^2), then the last linear estimate."""
    model, noise = Gaussian(small_prior(kind)), initial_noise(3, (2, 8, 8), 1)
    schedule = Schedule(steps, 0.05, 80.0, solver="multistep")
    *_, before, last = trajectory(model, noise, schedule)
    prior, s2 = model.prior, 0.05**2
    expected = prior.mean_field + prior.filter(noise, lambda v: (v + s2).sqrt())
    torch.testing.assert_close(before.x, expected, rtol=1e-4, atol=1e-4)
    clean = prior.mean_field + prior.filter(noise, lambda v: v * (v + s2).rsqrt())
    torch.testing.assert_close(last.x, clean, rtol=1e-4, atol=1e-4)


class Mixture(Gaussian):
    """The ideal denoiser of two equal Gaussians with the prior's covariance, at the prior's mean plus and minus
    `offset`: each one's linear estimate, weighted by how likely the noisy field is under it."""

    def __init__(self, prior, offset):
        super().__init__(prior)
        self.offset = offset

    def __call__(self, x, sigma):
        linear = lambda z: self.prior.filter(z, lambda v: v / (v + sigma**2))  # noqa: E731
        white = lambda z: self.prior.filter(z, lambda v: (v + sigma**2).rsqrt())  # noqa: E731
        x = x - self.prior.mean_field
        likelihood = (white(x) * white(self.offset)).sum((1, 2, 3), keepdim=True)
        offset = self.offset * likelihood.tanh()
        return self.prior.mean_field + offset + linear(x - offset)


def error_at_the_end(model, noise, schedule, exact) -> float:
    """Compared at sigma_min: what comes after is one Euler step to 0 whose length, hence whose error, is the same for
    any number of steps."""
    *_, last, _ = trajectory(model, noise, schedule)
    assert last.sigma == pytest.approx(schedule.sigma_min)
    return ((last.x - exact).norm() / exact.norm()).item()


def orders(errors: list[float]) -> np.ndarray:
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@every_solver
def test_second_order_where_the_gaussian_is_not_the_models(solver, flow):
    noise = initial_noise(4, flow.shape, 0).double()
    exact = flow.exact((80.0**2 + 0.25) ** 0.5 * noise, 80.0, 0.02)
    counts = (20, 40, 80, 160)
    errors = [error_at_the_end(flow.denoiser, noise, Schedule(n, solver=solver), exact) for n in counts]
    assert orders(errors).min() > 1.8
    assert errors[-1] < 1e-3


@every_solver
@pytest.mark.parametrize("kind", PRIORS)
def test_second_order_where_the_data_is_not_gaussian(solver, kind):
    prior = small_prior(kind).double()
    draw = torch.Generator().manual_seed(2)
    offset = prior.filter(torch.randn(1, 2, 8, 8, generator=draw, dtype=torch.float64), lambda v: 0.3 * v.sqrt())
    model, noise = Mixture(prior, offset), initial_noise(4, (2, 8, 8), 0).double()
    *_, fine, _ = trajectory(model, noise, Schedule(400, solver="heun"))
    counts = (20, 40, 80)
    errors = [error_at_the_end(model, noise, Schedule(n, solver=solver), fine.x) for n in counts]
    assert errors[0] > 1e-5
    assert orders(errors).min() > 1.7


@every_solver
def test_samples_of_the_exact_denoiser_are_distributed_like_data(solver, flow):
    noise = initial_noise(300, flow.shape, 3).double()
    x, _ = sample(flow.denoiser, noise, Schedule(25, solver=solver))
    measured = (x.flatten(1) @ flow.vectors).square().mean(0)
    torch.testing.assert_close(measured[-10:], flow.lam[-10:], rtol=0.3, atol=0)
    physical = get_pde("poisson").denormalise(x)
    solved = get_pde("poisson").solve(physical)
    assert (solved - physical)[:, 1].norm() < 0.02 * solved[:, 1].norm()


@every_solver
def test_models_together_give_what_each_gives_alone_and_share_what_they_have_in_common(solver):
    base, other = tiny_denoiser("darcy"), tiny_denoiser("darcy", seed=1, prior="isotropic")
    models = [base, *(tuned_from(base) for _ in range(2)), other]
    with torch.no_grad():
        models[2].expert.network.out_conv.bias.add_(0.1)
    schedule, noise = Schedule(6, 0.03, solver=solver), initial_noise(2, (2, 16, 16), 3)
    with torch.no_grad():
        alone = [list(trajectory(model, noise, schedule)) for model in models]
        calls = Counter()
        parts = {"base": base, "first": models[1].expert, "second": models[2].expert, "other": other}
        for name, part in parts.items():
            part.network.register_forward_hook(lambda *_, name=name: calls.update([name]))
        steps = list(zip(*together(models, noise, schedule), strict=True))
    for mine, theirs in zip(steps, alone, strict=True):
        assert [s.nfe for s in mine] == [s.nfe for s in theirs]
        for together_step, alone_step in zip(mine, theirs, strict=True):
            assert torch.equal(together_step.x, alone_step.x)
            assert torch.equal(together_step.denoised, alone_step.denoised)
    ends = [s[-1].x for s in steps]
    assert not any(torch.equal(ends[i], ends[k]) for i in range(4) for k in range(i))
    whole = schedule.evaluations(6)
    tuned_steps = (schedule.sigmas()[:-1] <= models[1].handover * (1 + 1e-5)).sum().item()
    assert 0 < tuned_steps < 6
    tuned = whole - schedule.evaluations(6 - tuned_steps)
    assert calls == {"base": whole, "first": tuned, "second": tuned, "other": whole}


def test_the_callers_gradient_mode_is_kept():
    """No-gradient mode must not leak out of the generator between two steps; `sample` needs no gradients."""
    model, noise = tiny_denoiser("darcy"), initial_noise(1, (2, 16, 16), 3)
    assert all(step.x.requires_grad and torch.is_grad_enabled() for step in trajectory(model, noise, Schedule(2)))
    assert not sample(model, noise, Schedule(2))[0].requires_grad


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


@every_solver
@every_pde
def test_sample_k_is_the_same_alone_and_in_a_batch(name, solver):
    model, shape = tiny_denoiser(name), (len(get_pde(name).channels), 16, 16)
    alone, _ = sample(model, initial_noise(1, shape, 9), Schedule(6, solver=solver))
    batch, _ = sample(model, initial_noise(8, shape, 9), Schedule(6, solver=solver))
    assert alone.isfinite().all()
    torch.testing.assert_close(batch[:1], alone, rtol=1e-4, atol=1e-4)


@every_pde
def test_noise_and_data_of_one_seed_are_unrelated(name):
    fields = get_pde(name).generate(150, 16, 4)
    noise = initial_noise(150, (fields.shape[1], 16, 16), 4)
    first = torch.stack([fields[:, 0].flatten(1), noise[:, 0].flatten(1)])
    first = first - first.mean(1, keepdim=True)
    correlation = (first[0] * first[1]).sum(0) / (first[0].norm(dim=0) * first[1].norm(dim=0)).clamp_min(1e-12)
    assert correlation.abs().max() < 0.4


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
        {"solver": "euler"},
        {"solver": None},
        {"solver": ["heun"]},
    ],
    ids=str,
)
def test_bad_schedules_are_refused(values):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        Schedule(10, **values)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (1.0, 0), ("1", 0), (1, 2**63), (1, -1), (1, 0.5), (1, "x")])
def test_bad_noise_requests_are_refused(n, seed):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        initial_noise(n, (2, 8, 8), seed)
