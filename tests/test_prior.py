"""Preconditioning: the priors and what they make of noisy fields."""

import pytest
import torch
from tiny import PRIORS, prior_config, small_prior, tiny_denoiser

from pirf_app.common.checks import InputError
from pirf_app.diffusion.denoiser import Denoiser, native_bfloat16
from pirf_app.diffusion.network import NetworkConfig
from pirf_app.diffusion.prior import SIGMA_DATA, IsotropicPrior, ModePrior, PriorConfig
from pirf_app.diffusion.sampler import initial_noise
from pirf_app.pdes import get_pde, pde_names
from pirf_app.pdes.bases import BASES, basis

pytestmark = pytest.mark.usefixtures("quick_data")
every_pde = pytest.mark.parametrize("name", pde_names())
every_prior = pytest.mark.parametrize("kind", PRIORS)
SEEN = {"isotropic": 1, "modes": 2, "low-rank": 2}  # times the channels of a field, by the network


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("n", [8, 9, 32])
def test_bases_are_orthonormal(name, n):
    rows = basis(name, n)
    torch.testing.assert_close(rows @ rows.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)


def dense(prior, gain) -> torch.Tensor:
    """The matrix `[128, 128]` of `filter` on fields of 2 channels and 8x8 points."""
    return prior.filter(torch.eye(128, dtype=torch.float64).view(128, 2, 8, 8), gain).flatten(1)


def draws(prior, n: int) -> torch.Tensor:
    """Fields `[n, 2, 8, 8]` of the Gaussian that a prior stands for."""
    return prior.mean_field + prior.filter(initial_noise(n, (2, 8, 8), 4).to(prior.mean_field), torch.sqrt)


@every_prior
def test_filters_of_a_prior_compose(kind):
    prior = small_prior(kind).double()
    if kind == "low-rank":  # as in its files
        prior.rest.copy_(torch.tensor([0.05, 0.002]))
    eye = torch.eye(128, dtype=torch.float64)
    torch.testing.assert_close(dense(prior, torch.ones_like), eye, rtol=0, atol=1e-6)
    root, covariance = dense(prior, torch.sqrt), dense(prior, lambda v: v)
    torch.testing.assert_close(root @ root, covariance, rtol=0, atol=1e-6)
    torch.testing.assert_close(covariance, covariance.T, rtol=0, atol=1e-6)
    assert torch.linalg.eigvalsh(covariance).min() > 0


@every_prior
def test_linear_estimate_is_the_wiener_filter(kind):
    prior = small_prior(kind).double()
    covariance, mean = dense(prior, lambda v: v), prior.mean_field.flatten()
    x, levels = 2 * initial_noise(4, (2, 8, 8), 1).double(), torch.tensor([0.02, 0.3, 5.0, 80.0])
    linear, features = prior.condition(x, levels)
    for noisy, level, found in zip(x, levels.double(), linear, strict=True):
        gain = covariance @ torch.linalg.inv(covariance + level**2 * torch.eye(128, dtype=torch.float64))
        expected = mean + gain @ (noisy.flatten() - mean)
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-5, atol=1e-5)
    assert features.shape == (4, 2 * SEEN[kind], 8, 8)
    if kind == "modes":
        left = (x - linear) / levels.double().view(-1, 1, 1, 1)
        torch.testing.assert_close(features, torch.cat([linear / SIGMA_DATA, left], 1))


@every_prior
def test_scale_is_the_linear_estimates_error(kind):
    """The network's part, of variance 1, stands for what the linear estimate misses: channel by channel its RMS."""
    prior = small_prior(kind)
    clean = draws(prior, 2000)
    white, noise = (torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    for level in (0.05, 0.5, 5.0):
        sigma = torch.full((len(clean),), level)
        error = prior.condition(clean + level * noise, sigma)[0] - clean
        stated, measured = (x.square().mean((0, 2, 3)).sqrt() for x in (prior.scale(white, sigma), error))
        torch.testing.assert_close(stated, measured, rtol=0.03, atol=0)


@every_prior
def test_error_variance_is_that_of_the_wiener_filter(kind):
    """Channel by channel, exactly: C - C (C + sigma^2)^-1 C has it on its diagonal."""
    prior, eye = small_prior(kind).double(), torch.eye(128, dtype=torch.float64)
    covariance = dense(prior, lambda v: v)
    for level in (0.05, 0.3, 1.0, 5.0):
        left = covariance - covariance @ torch.linalg.inv(covariance + level**2 * eye) @ covariance
        expected = left.diagonal().view(2, 64).mean(1)
        stated = prior.error_variance(torch.tensor([level], dtype=torch.float64)).expand(1, 2, 1, 1).flatten().double()
        torch.testing.assert_close(stated, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", ["isotropic", "modes"])
def test_loss_without_a_network_is_one(kind):
    model = Denoiser(NetworkConfig(8, 2 * SEEN[kind], 2, 8, (1,)))
    model.prior = small_prior(kind)
    clean, sigma = draws(model.prior, 1000), torch.logspace(-1.5, 1, 1000)
    with torch.no_grad():
        assert model.loss(clean, initial_noise(1000, (2, 8, 8), 5), sigma).item() == pytest.approx(1, abs=0.03)


def test_unscale_is_the_inverse_of_scale():
    prior = small_prior("modes").double()
    x, sigma = torch.randn(4, 2, 8, 8, dtype=torch.float64), torch.tensor([0.01, 0.3, 2.0, 50.0])
    torch.testing.assert_close(prior.unscale(prior.scale(x, sigma), sigma), x, rtol=0, atol=1e-5)
    faint = prior.unscale(x * 1e-7, torch.full((4,), 1e-9))
    assert faint.abs().max() < 0.1


def test_every_channel_counts_alike_in_the_loss():
    """Missing all of a channel costs as much where its variance is a millionth."""
    model = Denoiser(NetworkConfig(8, 2 * SEEN["modes"], 2, 8, (1,)))
    model.prior = prior = small_prior("modes")
    prior.rotation.copy_(torch.eye(len(prior.rotation)))
    prior.variance[1] *= 1e-6
    clean, sigma = draws(prior, 2000), torch.full((2000,), 0.5)
    linear, _ = prior.condition(clean + 0.5 * initial_noise(2000, (2, 8, 8), 5), sigma)
    for channel in (0, 1):
        estimate = clean.clone()
        estimate[:, channel] = linear[:, channel]
        assert model.error(estimate, clean, sigma).item() == pytest.approx(0.5, rel=0.05)


def test_coefficients_are_an_orthogonal_map():
    prior = small_prior("modes").double()
    units = torch.eye(128, dtype=torch.float64).view(128, 2, 8, 8)
    encoded = prior.encode(units).flatten(1)
    torch.testing.assert_close(encoded @ encoded.T, torch.eye(128, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(prior.decode(prior.encode(units)), units, rtol=0, atol=1e-6)
    torch.testing.assert_close(prior.encode(prior.decode(units)), units, rtol=0, atol=1e-6)


def test_fit_recovers_a_known_gaussian():
    truth, config = small_prior("modes").double(), PriorConfig(3, (("cosine", "fourier"), ("sine", "sine-vertices")))
    prior = ModePrior.fit(draws(truth, 8000).float(), config.box, config.bases).double()
    covariances = [dense(p, lambda v: v) for p in (prior, truth)]
    assert (covariances[0] - covariances[1]).norm() < 0.06 * covariances[1].norm()
    assert (prior.mean_field - truth.mean_field).norm() < 0.1 * truth.mean_field.norm()
    torch.testing.assert_close(prior.variance[..., 3:, :], truth.variance[..., 3:, :], rtol=0.1, atol=0)
    assert (prior.variance[:, :3, :3].flatten().diff() <= 0).all()


def test_a_mode_that_the_data_lacks_does_no_harm():
    """The edge of Poisson's solution is zero in every field: an estimate there is too, at every noise level."""
    pde = get_pde("poisson")
    prior = ModePrior.fit(pde.normalise(pde.generate(100, 16, 1)), 4, prior_config("poisson").bases)
    x, sigma = initial_noise(3, (2, 16, 16), 0), torch.tensor([0.02, 1.0, 80.0])
    linear = prior.condition(x, sigma)[0]
    assert linear.isfinite().all()
    assert linear[:, 1, 0].abs().max() < 1e-5
    assert prior.scale(x, sigma)[:, 1, :, -1].abs().max() < 1e-4


def test_isotropic_prior_is_the_preconditioning_of_edm():
    model = tiny_denoiser("darcy", prior="isotropic")
    x, sigma = initial_noise(4, (2, 16, 16), 1), torch.tensor([0.02, 0.5, 3.0, 80.0])
    s = sigma[:, None, None, None]
    c_skip, c_out, c_in = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
    expected = c_skip * x + c_out * model.network(c_in * x, sigma.log() / 4)
    torch.testing.assert_close(model(x, sigma), expected)
    clean = 0.5 * initial_noise(4, (2, 16, 16), 2)
    weighted = (model(clean + s * x, sigma) - clean).square().mean((1, 2, 3)) / c_out.flatten() ** 2
    torch.testing.assert_close(model.loss(clean, x, sigma), weighted.mean())


@every_prior
def test_one_noise_level_serves_the_batch(kind):
    model = tiny_denoiser("poisson", prior=kind)
    x = initial_noise(3, (2, 16, 16), 1)
    torch.testing.assert_close(model(x, torch.tensor(0.3)), model(x, torch.full((3,), 0.3)))


@every_pde
def test_prior_of_a_benchmark_beats_the_scalar_one(name):
    pde = get_pde(name)
    fields = pde.normalise(pde.generate(128, 16, 1))
    prior, plain = ModePrior.fit(fields, 4, prior_config(name).bases), IsotropicPrior(fields.shape[1], 16)
    held_out, sigma = pde.normalise(pde.generate(32, 16, 2)), torch.full((32,), 0.5)
    noisy = held_out + 0.5 * initial_noise(32, fields.shape[1:], 0)
    error = [(p.condition(noisy, sigma)[0] - held_out).square().mean() for p in (prior, plain)]
    assert error[0] < 0.7 * error[1]


@every_prior
def test_half_precision_is_finite_and_close(kind):
    model = tiny_denoiser("darcy", prior=kind)
    x, sigma = 40 * initial_noise(3, (2, 16, 16), 0), torch.tensor([0.02, 1.0, 80.0])
    exact = model(x, sigma)
    model.autocast = True
    half = model(x, sigma)
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    assert 0 < (half - exact).norm() < 0.02 * exact.norm()


def test_native_bfloat16_of_devices(monkeypatch):
    assert native_bfloat16("cuda") is False  # as the tests are run
    monkeypatch.delenv("PIRF_BFLOAT16")
    assert native_bfloat16("cuda") is True
    assert native_bfloat16("meta") is False
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        assert native_bfloat16() is native_bfloat16(torch.device("cpu")) is has
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert native_bfloat16() is False


@pytest.mark.parametrize(
    "values",
    [
        {"box": -1}, {"box": 9}, {"box": 2.0}, {"rank": -1}, {"rank": 4096, "box": 4}, {"rank": 4},
        {"bases": (("sine", "sine"),), "box": 4}, {"bases": (("sine", "sine"),) * 3, "box": 4},
        {"bases": (("sine", "sine"), ("sine", "saw")), "box": 4}, {"bases": (("sine",), ("sine", "sine")), "box": 4},
        {"bases": (("sine", "sine"), ("sine", "sine"))},
    ],
    ids=str,
)  # fmt: skip
def test_bad_priors_are_refused(values):
    with pytest.raises(InputError, match=r"^[^\n]{,200}$"):
        PriorConfig(**values).check(2, 8)


@every_prior
def test_prior_as_it_is_written(kind):
    config = prior_config("burgers", kind)
    assert PriorConfig.from_dict(config.to_dict()) == config.check(1, 16)
    _, seen = config.build(1, 16).condition(torch.zeros(1, 1, 16, 16), torch.ones(1))
    assert seen.shape == (1, config.inputs, 16, 16)
