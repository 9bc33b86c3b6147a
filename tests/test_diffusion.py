"""Network, preconditioning and pre-training."""

from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from tiny import tiny_config, tiny_denoiser

from pirf_app.checkpoints import read_info
from pirf_app.diffusion.denoiser import Denoiser, native_bfloat16
from pirf_app.diffusion.network import NetworkConfig, UNet
from pirf_app.diffusion.pretraining import (
    PRIOR_CHUNK,
    PretrainConfig,
    Pretraining,
    denoising_loss,
    training_data,
)
from pirf_app.diffusion.prior import GaussianPrior, cosine_basis
from pirf_app.diffusion.run_state import save_run
from pirf_app.diffusion.sampler import initial_noise
from pirf_app.pdes import InputError, get_pde, pde_names

SUFFIXES = ("last", "highres", "decoder", "all")


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(16, 2, 2, 8, (1, 2), 1, (8,)),
        NetworkConfig(32, 4, 2, 8, (1, 2, 2, 3), 2, (16, 8)),
        NetworkConfig(16, 3, 3, 12, (1,), 1, ()),
        NetworkConfig(8, 1, 1, 4, (2, 1, 2), 3, (8,)),
    ],
)
def test_output_has_the_shape_of_the_fields(config):
    x = torch.randn(3, config.in_channels, config.resolution, config.resolution)
    assert UNet(config)(x, torch.zeros(3)).shape == (3, config.out_channels, config.resolution, config.resolution)
    assert NetworkConfig.from_dict(config.to_dict()) == config


def test_published_size():
    """EDM's DDPM++ at 128 channels, multipliers 1, 2, 2, 2, four blocks a level: 55 to 62 million parameters."""
    with torch.device("meta"):
        network = UNet(NetworkConfig(128, 2, 2, 128, (1, 2, 2, 2), 4, (16,)))
        assert network(torch.empty(1, 2, 128, 128), torch.empty(1)).shape == (1, 2, 128, 128)
    assert 50e6 < sum(p.numel() for p in network.parameters()) < 65e6


def test_untrained_network_predicts_nearly_nothing():
    network = UNet(tiny_config("darcy"))
    assert network(torch.randn(2, 2, 16, 16), torch.zeros(2)).abs().max() < 1e-3


def suffix_of(network: UNet, trainable: str) -> set[str]:
    """The decoder's blocks from the first one at a fine enough level, and the output layers."""
    levels = {"last": 0, "highres": 1, "decoder": 99}
    if trainable == "all":
        return {name for name, _ in network.named_parameters()}
    first = [level <= levels[trainable] for level in network.decoder_level].index(True)
    owners = {f"decoder.{i}" for i in range(first, len(network.decoder))} | {"out_norm", "out_conv"}
    return {
        n for n, _ in network.named_parameters() if ".".join(n.split(".")[:2]) in owners or n.split(".")[0] in owners
    }


@pytest.mark.parametrize("trainable", SUFFIXES)
def test_freeze_leaves_a_suffix_trainable(trainable):
    network = UNet(NetworkConfig(16, 2, 2, 8, (1, 2, 2), 1, (8,)))
    returned = network.freeze(trainable)
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert names == suffix_of(network, trainable)
    assert {id(p) for p in returned} == {id(p) for n, p in network.named_parameters() if n in names}
    assert len(network.freeze("all")) == len(list(network.parameters()))


def test_suffixes_are_nested_and_shrink():
    network = UNet(NetworkConfig(16, 2, 2, 8, (1, 2, 2), 1, (8,)))
    sizes = [sum(p.numel() for p in network.freeze(t)) for t in SUFFIXES]
    assert sizes == sorted(set(sizes))
    assert all(suffix_of(network, a) < suffix_of(network, b) for a, b in zip(SUFFIXES, SUFFIXES[1:], strict=False))


@contextmanager
def bytes_kept(network):
    """Bytes of activations (not weights) that autograd keeps for the backward pass."""
    weights, seen = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(seen.values())


def outputs_and_gradients(model: Denoiser, trainable: str):
    model.network.freeze(trainable)
    model.zero_grad(set_to_none=True)
    with bytes_kept(model) as kept:
        output = model(initial_noise(2, (2, 16, 16), 0), torch.tensor([0.1, 0.5]))
    output.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.detach(), gradients, kept()


def test_frozen_part_runs_without_a_graph_and_the_suffix_gets_its_full_gradient():
    model = tiny_denoiser("darcy")
    reference, full, most = outputs_and_gradients(model, "all")
    kept = []
    for trainable in ("last", "highres", "decoder"):
        output, gradients, memory = outputs_and_gradients(model, trainable)
        assert torch.equal(output, reference)
        assert {n.removeprefix("network.") for n in gradients} == suffix_of(model.network, trainable)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, full[name])
        kept.append(memory)
    assert kept == sorted(kept)
    assert kept[0] < 0.5 * most
    assert kept[-1] < 0.8 * most


def test_frozen_layers_return_tensors_without_history():
    model, histories = tiny_denoiser("darcy"), {}
    network = model.network
    network.freeze("last")
    for i, layer in enumerate((*network.encoder, *network.decoder)):
        layer.register_forward_hook(lambda _, __, output, i=i: histories.__setitem__(i, output.requires_grad))
    model(initial_noise(1, (2, 16, 16), 0), torch.tensor([0.1]))
    assert [histories[i] for i in sorted(histories)] == [i >= network.first_trainable for i in range(len(histories))]
    assert 0 < network.first_trainable < len(histories)


def test_rank_zero_is_the_preconditioning_of_edm():
    model = tiny_denoiser("darcy")
    x, sigma = initial_noise(4, (2, 16, 16), 1), torch.tensor([0.02, 0.5, 3.0, 80.0])
    s = sigma[:, None, None, None]
    c_skip, c_out, c_in = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
    expected = c_skip * x + c_out * model.network(c_in * x, sigma.log() / 4)
    torch.testing.assert_close(model(x, sigma), expected)
    torch.testing.assert_close(model.prior.posterior_std(sigma)[:, :1], c_out)


def test_one_noise_level_serves_the_batch():
    model = tiny_denoiser("poisson", rank=8, modes=8)
    x = initial_noise(3, (2, 16, 16), 1)
    torch.testing.assert_close(model(x, torch.tensor(0.3)), model(x, torch.full((3,), 0.3)))


def gaussian_data(n: int = 4000, resolution: int = 8):
    """Correlated Gaussian fields `[n, 2, N, N]` with a mean, float64."""
    draw = torch.Generator().manual_seed(0)
    size = 2 * resolution**2
    mixing = torch.randn(size, size, generator=draw, dtype=torch.float64) * torch.logspace(0, -2, size) / size**0.5
    mean = 0.3 * torch.randn(size, generator=draw, dtype=torch.float64)
    noise = torch.randn(n, size, generator=draw, dtype=torch.float64)
    return (noise @ mixing.T + mean).view(n, 2, resolution, resolution)


def test_prior_of_full_rank_is_the_wiener_filter():
    fields = gaussian_data()
    prior = GaussianPrior.fit(fields, rank=128, modes=8)
    flat = fields.flatten(1)
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    for level in (0.02, 0.3, 5.0):
        x = fields[:16] + level * initial_noise(16, (2, 8, 8), 1)
        gain = covariance @ torch.linalg.inv(covariance + level**2 * torch.eye(128, dtype=torch.float64))
        expected = (mean + (x.flatten(1) - mean) @ gain.T).view(16, 2, 8, 8)
        found = prior.denoise(x.float(), torch.full((16,), level))
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rank", "modes"), [(0, 1), (16, 4), (128, 8)])
def test_posterior_deviation_is_the_error_that_is_made(rank, modes):
    """Exact at full rank; at lower ranks the part outside the directions is treated as white, which overrates it."""
    fields = gaussian_data()
    prior = GaussianPrior.fit(fields, rank, modes) if rank else GaussianPrior(2, 8)
    held_out = gaussian_data(8000)[4000:].float()
    for level in (0.05, 0.5, 5.0):
        noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(2))
        sigma = torch.full((len(held_out),), level)
        error = prior.denoise(held_out + level * noise, sigma) - held_out
        stated, measured = prior.posterior_std(sigma)[0, :, 0, 0], error.square().mean((0, 2, 3)).sqrt()
        if rank:
            torch.testing.assert_close(measured, stated, rtol=0.05 if rank == 128 else 0.35, atol=0)
        assert stated.isfinite().all()


@pytest.mark.parametrize("name", pde_names())
def test_prior_of_a_benchmark_beats_the_scalar_one(name):
    pde = get_pde(name)
    fields = pde.normalise(pde.generate(200, 16, 1))
    prior, plain = GaussianPrior.fit(fields, 32, 8), GaussianPrior(fields.shape[1], 16)
    held_out, sigma = pde.normalise(pde.generate(50, 16, 2)), torch.full((50,), 0.5)
    noisy = held_out + 0.5 * initial_noise(50, fields.shape[1:], 0)
    error = [(p.denoise(noisy, sigma) - held_out).square().mean() for p in (prior, plain)]
    assert error[0] < 0.7 * error[1]


@pytest.mark.parametrize("rank", [0, 8])
def test_half_precision_is_finite_and_close(rank):
    model = tiny_denoiser("darcy", rank=rank, modes=8)
    x, sigma = 40 * initial_noise(3, (2, 16, 16), 0), torch.tensor([0.02, 1.0, 80.0])
    exact = model(x, sigma)
    model.autocast = True
    half = model(x, sigma)
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    assert (half - exact).norm() < 0.02 * exact.norm()


def test_native_bfloat16_of_devices(monkeypatch):
    assert native_bfloat16("cuda") is True
    assert native_bfloat16("meta") is False
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        assert native_bfloat16() is native_bfloat16(torch.device("cpu")) is has
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert native_bfloat16() is False


TINY_RUN = PretrainConfig(
    samples=320, batch=8, warmup_samples=32, ema_samples=100, prior_rank=8, prior_modes=8, prior_samples=64
)


def tiny_run(name: str = "poisson", config: PretrainConfig = TINY_RUN) -> Pretraining:
    torch.manual_seed(0)
    return Pretraining(get_pde(name), tiny_config(name, config.prior_rank), config)


@pytest.mark.parametrize("name", pde_names())
def test_pretraining_lowers_the_loss(name):
    run = tiny_run(name)
    pde = run.pde
    clean = pde.normalise(pde.generate(32, 16, 5))
    noise, sigma = initial_noise(32, clean.shape[1:], 0), torch.logspace(-1, 0.5, 32)

    def held_out(model):
        with torch.no_grad():
            return denoising_loss(model, clean, noise, sigma).item()

    run.fit_prior()
    before = held_out(run.model)
    steps = list(run.run())
    assert [s.update for s in steps] == list(range(1, 41))
    assert steps[-1].samples == 320
    assert held_out(run.ema) < before
    assert held_out(run.model) < 0.97 * before


def test_pretraining_resumes_bit_for_bit(tmp_path):
    straight = tiny_run()
    list(straight.run())
    broken = tiny_run()
    for step in broken.run():
        if step.update == 17:
            break
    broken.save(tmp_path / "run.safetensors")
    resumed = Pretraining.load(get_pde("poisson"), tmp_path / "run.safetensors")
    assert resumed.update == 17
    list(resumed.run())
    for part in ("model", "ema"):
        expected, found = getattr(straight, part).state_dict(), getattr(resumed, part).state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("seed", [2**32, 2**63 - 1])
def test_large_seeds_train(seed):
    run = tiny_run(config=replace(TINY_RUN, samples=8, seed=seed))
    assert len(list(run.run())) == 1


def test_a_run_belongs_to_its_pde(tmp_path):
    run = tiny_run()
    run.save(tmp_path / "run.safetensors")
    with pytest.raises(InputError, match="poisson"):
        Pretraining.load(get_pde("darcy"), tmp_path / "run.safetensors")


@pytest.mark.parametrize("name", ["empty", "text", "other"])
def test_a_damaged_state_is_refused(name, tmp_path):
    path = tmp_path / "run.state"
    if name == "other":
        save_run(path, {"a": torch.zeros(1)}, torch.optim.Adam([torch.zeros(1)]), {"update": 3})
    else:
        path.write_text("" if name == "empty" else "not a state")
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        Pretraining.load(get_pde("darcy"), path)


@pytest.mark.parametrize(
    "change", [{"config": {"colour": "red"}}, {"network": tiny_config("poisson", rank=0).to_dict()}]
)
def test_a_state_that_does_not_fit_is_refused(change, tmp_path):
    run = tiny_run(config=replace(TINY_RUN, prior_rank=0))
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items() if "rest" not in k}
    meta = {"update": 1, "seconds": 1.0, "config": asdict(run.config), "network": run.model.config.to_dict()}
    save_run(tmp_path / "run.state", tensors, run.optimiser, meta | {"pde": "poisson"} | change)
    with pytest.raises(InputError, match="version"):
        Pretraining.load(get_pde("poisson"), tmp_path / "run.state")


@pytest.mark.parametrize(("rank", "modes"), [(0, 1), (24, 16)])
def test_modes_are_those_of_the_grid(rank, modes, tmp_path):
    """The default is 32 an axis; a smaller grid has fewer, and without a prior there is only the unused mean."""
    run = tiny_run(config=replace(TINY_RUN, samples=8, prior_rank=rank, prior_modes=32))
    list(run.run())
    run.export(tmp_path / "a.safetensors")
    info = read_info(tmp_path / "a.safetensors")
    assert info.prior_modes == run.model.prior.modes == run.config.prior_modes == modes
    run.save(tmp_path / "a.state")
    assert Pretraining.load(run.pde, tmp_path / "a.state").config == run.config


def test_longer_runs_decay_later(tmp_path):
    """More samples for a resumed run: the decay is planned anew, and ends at zero after them."""
    run = tiny_run()
    list(run.run())
    assert run.learning_rate() == pytest.approx(0)
    run.save(tmp_path / "a.state")
    longer = Pretraining.load(run.pde, tmp_path / "a.state")
    longer.config = replace(longer.config, samples=640)
    assert longer.learning_rate() == pytest.approx(0.5 * longer.config.learning_rate)
    assert list(longer.run())[-1].samples == 640


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 0}, {"samples": 8.0}, {"samples": True}, {"batch": 0}, {"batch": "8"}, {"batch": 10**9},
        {"learning_rate": 0}, {"learning_rate": float("nan")}, {"learning_rate": 2}, {"learning_rate": "fast"},
        {"warmup_samples": 0}, {"noise_mean": float("inf")}, {"noise_std": -1}, {"ema_samples": 0},
        {"prior_rank": -1}, {"prior_rank": 1025}, {"prior_rank": 8.0}, {"prior_modes": 0}, {"prior_samples": 8},
        {"sigma_min": 0}, {"sigma_min": 100}, {"sigma_min": None}, {"seed": -1}, {"seed": 2**63}, {"seed": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_bad_recipes_are_refused(changes):
    with pytest.raises(InputError, match=r"^[^\n]{,200}$"):
        replace(TINY_RUN, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": 7}, {"resolution": 18}, {"resolution": 16.0}, {"resolution": 1024}, {"in_channels": 0},
        {"out_channels": True}, {"base_channels": 7}, {"base_channels": 2}, {"base_channels": 8.0},
        {"base_channels": 10**6}, {"multipliers": ()}, {"multipliers": [1, 2]}, {"multipliers": (1, 0)},
        {"multipliers": (1.0, 2)}, {"multipliers": (1,) * 7}, {"multipliers": (1, 1000)}, {"multipliers": 2},
        {"multipliers": (1, 1, 1, 1, 1)}, {"blocks": 0}, {"blocks": 9}, {"attention": (8.5,)}, {"attention": None},
        {"attention": (True,)},
    ],
    ids=str,
)  # fmt: skip
def test_bad_networks_are_refused(changes):
    config = NetworkConfig(16, 4, 2, 8, (1, 2, 2), 1, (8,))
    assert config.check() is config
    with pytest.raises(InputError, match=r"^[^\n]{,200}$"):
        replace(config, **changes).check()


@pytest.mark.parametrize("rank", [0, 8])
def test_a_network_that_does_not_fit_is_refused(rank):
    config = replace(TINY_RUN, prior_rank=rank)
    with pytest.raises(InputError, match="halved"):
        Pretraining(get_pde("darcy"), replace(tiny_config("darcy", rank), resolution=17), config)
    with pytest.raises(InputError, match="channels"):
        Pretraining(get_pde("darcy"), tiny_config("darcy", rank=0), TINY_RUN)
    with pytest.raises(InputError, match="rank"):
        tiny_run(config=replace(TINY_RUN, prior_rank=60, prior_modes=4))


@pytest.mark.parametrize("name", pde_names())
def test_training_data_is_not_that_of_a_small_seed(name):
    pde = get_pde(name)
    batches = [training_data(pde, 4, 8, seed, chunk) for seed in (0, 1) for chunk in (0, 1, PRIOR_CHUNK)]
    held_out = [pde.normalise(pde.generate(4, 8, seed)) for seed in range(8)]
    samples = torch.cat(batches + held_out).flatten(1)
    assert len(torch.unique(samples, dim=0)) == len(samples)


def test_output_is_held_in_the_lowest_modes_outside_the_directions():
    pde = get_pde("poisson")
    prior = GaussianPrior.fit(pde.normalise(pde.generate(400, 32, 1)), 150, 12)
    assert (prior.rest_low < prior.rest).all()
    sigma = torch.tensor([0.02])
    to_grid = lambda c: prior.basis.T @ c @ prior.basis  # noqa: E731
    along = to_grid(prior.directions[:1])
    torch.testing.assert_close(prior.hold(along, sigma), along, atol=1e-5, rtol=1e-4)
    low = torch.zeros(1, 2, 12, 12)
    low[..., :8, :8] = torch.randn(1, 2, 8, 8)
    flat = prior.directions.flatten(1)
    off = low - (low.flatten(1) @ flat.T @ flat).view_as(low)
    assert prior.hold(to_grid(off), sigma).norm() < 0.9 * to_grid(off).norm()
    high = cosine_basis(32, 20).float()[15]
    fine = (high[:, None] * high[None, :]).expand(1, 2, 32, 32)
    torch.testing.assert_close(prior.hold(fine, sigma), fine, atol=1e-5, rtol=1e-4)


def test_isotropic_prior_holds_nothing():
    change = torch.randn(2, 2, 16, 16)
    assert torch.equal(GaussianPrior(2, 16).hold(change, torch.tensor([0.1, 1.0])), change)
