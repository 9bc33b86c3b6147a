"""Network, preconditioning and pre-training."""

from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from tiny import PRIORS, prior_config, small_prior, tiny_config, tiny_denoiser

from pirf_app.checkpoints import read_info
from pirf_app.diffusion import pretraining
from pirf_app.diffusion.denoiser import Denoiser, native_bfloat16
from pirf_app.diffusion.network import NetworkConfig, UNet
from pirf_app.diffusion.pretraining import PRIOR_CHUNK, PretrainConfig, Pretraining, training_data
from pirf_app.diffusion.prior import SIGMA_DATA, IsotropicPrior, ModePrior, PriorConfig
from pirf_app.diffusion.run_state import save_run
from pirf_app.diffusion.sampler import initial_noise
from pirf_app.pdes import InputError, get_pde, pde_names
from pirf_app.pdes.bases import BASES, basis

pytestmark = pytest.mark.usefixtures("quick_data")
every_pde = pytest.mark.parametrize("name", pde_names())
every_prior = pytest.mark.parametrize("kind", PRIORS)
SUFFIXES = ("last", "highres", "decoder", "all")


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(16, 2, 2, 8, (1, 2), 1, (8,)),
        NetworkConfig(32, 4, 2, 8, (1, 2, 2, 3), 2, (16, 8)),
        NetworkConfig(16, 3, 3, 12, (1,), 1, ()),
        NetworkConfig(8, 1, 1, 4, (2, 1), 3, (8,)),
        NetworkConfig(32, 4, 2, 8, (1, 2), 1, (8,), 2, ("zeros", "circular"), (0.5, 4.0)),
        NetworkConfig(32, 1, 3, 8, (1, 2), 1, (), 4),
    ],
    ids=str,
)
def test_output_has_the_shape_of_the_fields(config):
    x = torch.randn(3, config.in_channels, config.resolution, config.resolution)
    assert UNet(config)(x, torch.zeros(3)).shape == (3, config.out_channels, config.resolution, config.resolution)
    assert NetworkConfig.from_dict(config.to_dict()) == config.check()


def test_published_size():
    """EDM's DDPM++ at 128 channels, multipliers 1, 2, 2, 2, four blocks a level: 55 to 62 million parameters."""
    with torch.device("meta"):
        network = UNet(NetworkConfig(128, 2, 2, 128, (1, 2, 2, 2), 4, (16,)))
        assert network(torch.empty(1, 2, 128, 128), torch.empty(1)).shape == (1, 2, 128, 128)
    assert 50e6 < sum(p.numel() for p in network.parameters()) < 65e6


def test_files_from_before_patches_keep_their_metadata():
    """What has its default is not written: the SHA-256 of an old network's file stays what it was."""
    old = {"resolution", "in_channels", "out_channels", "base_channels", "multipliers", "blocks", "attention"}
    assert set(NetworkConfig().to_dict()) == old
    assert set(NetworkConfig(patch=2, row_waves=(1.0,)).to_dict()) == old | {"patch", "row_waves"}


def test_untrained_network_predicts_nearly_nothing():
    network = UNet(tiny_config("darcy", "isotropic"))
    assert network(torch.randn(2, 2, 16, 16), torch.zeros(2)).abs().max() < 1e-3


def shaken(network: UNet) -> UNet:
    """With every weight perturbed, so that the layers which start near zero take part."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(
    ("padding", "waves", "moves"),
    [
        (("zeros", "zeros"), (), (False, False)),
        (("zeros", "circular"), (), (False, True)),
        (("circular", "circular"), (), (True, True)),
        (("circular", "circular"), (1.0,), (False, True)),
    ],
)
def test_output_shifts_with_the_input_along_an_axis_that_closes(padding, waves, moves, patch):
    """By whole pixels of the coarsest level; where rows are told apart, not along them."""
    config = NetworkConfig(16, 2, 2, 8, (1, 2), 1, (8,), patch, padding, waves).check()
    network, x, label = shaken(UNet(config)), initial_noise(2, (2, 16, 16), 0), torch.tensor([0.1, -0.4])
    with torch.no_grad():
        output = network(x, label)
        for axis in (0, 1):
            change = network(x.roll(4, 2 + axis), label) - output.roll(4, 2 + axis)
            assert bool(change.abs().max() < 1e-4 * output.abs().max()) == moves[axis]


def test_patches_reach_every_weight_and_pixel():
    config = NetworkConfig(16, 2, 2, 8, (1, 2), 1, (), 2, ("zeros", "circular"), (0.5,)).check()
    network, x = shaken(UNet(config)), initial_noise(2, (2, 16, 16), 0).requires_grad_()
    network(x, torch.tensor([0.1, -0.4])).square().mean().backward()
    assert (x.grad != 0).all()
    assert all((p.grad != 0).any() for p in network.parameters())


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
        output = model(initial_noise(2, (model.config.out_channels, 16, 16), 0), torch.tensor([0.1, 0.5]))
    output.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.detach(), gradients, kept()


@pytest.mark.parametrize("name", ["darcy", "kolmogorov"])
def test_frozen_part_runs_without_a_graph_and_the_suffix_gets_its_full_gradient(name):
    model = tiny_denoiser(name)
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
    assert features.shape == (4, 2 * prior.inputs, 8, 8)
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


@pytest.mark.parametrize("kind", ["isotropic", "modes"])
def test_loss_without_a_network_is_one(kind):
    model = Denoiser(NetworkConfig(8, 2 * small_prior(kind).inputs, 2, 8, (1,)))
    model.prior = small_prior(kind)
    clean, sigma = draws(model.prior, 1000), torch.logspace(-1.5, 1, 1000)
    with torch.no_grad():
        assert model.loss(clean, initial_noise(1000, (2, 8, 8), 5), sigma).item() == pytest.approx(1, abs=0.03)


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
    assert native_bfloat16("cuda") is True
    assert native_bfloat16("meta") is False
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        assert native_bfloat16() is native_bfloat16(torch.device("cpu")) is has
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert native_bfloat16() is False


TINY_RUN = PretrainConfig(
    samples=160, batch=8, learning_rate=5e-3, warmup_samples=32, ema_samples=100, prior_box=4, prior_samples=64
)


def tiny_run(name: str = "poisson", config: PretrainConfig = TINY_RUN) -> Pretraining:
    return Pretraining(get_pde(name), tiny_config(name, "modes" if config.prior_box else "isotropic"), config)


@pytest.mark.parametrize(("name", "box"), [*((name, 0) for name in pde_names()), ("poisson", 1)])
def test_pretraining_lowers_the_loss(name, box):
    """With few modes taken together, so that a few updates are enough to find what the Gaussian leaves."""
    run = tiny_run(name, replace(TINY_RUN, prior_box=box))
    clean = run.pde.normalise(run.pde.generate(32, 16, 5))
    noise, sigma = initial_noise(32, clean.shape[1:], 0), torch.logspace(-1, 0.5, 32)

    def held_out(model):
        with torch.no_grad():
            return model.loss(clean, noise, sigma).item()

    events = run.run()
    steps = [next(events)]
    before = held_out(untrained_like(run))
    steps += events
    assert [s.update for s in steps] == list(range(1, 21))
    assert steps[-1].samples == 160
    assert held_out(run.ema) < 0.95 * before
    assert held_out(run.model) < 0.95 * before


def untrained_like(run: Pretraining) -> Denoiser:
    """The run's denoiser before its first update: an untrained network on the fitted prior."""
    torch.manual_seed(run.config.seed)
    model = Denoiser(run.model.config, run.model.prior_config)
    model.prior.load_state_dict(run.model.prior.state_dict())
    return model


@pytest.mark.parametrize("name", ["poisson", "kolmogorov"])
def test_pretraining_resumes_bit_for_bit(name, tmp_path):
    config = replace(TINY_RUN, samples=80)
    straight = tiny_run(name, config)
    list(straight.run())
    broken = tiny_run(name, config)
    for step in broken.run():
        if step.update == 6:
            break
    broken.save(tmp_path / "run.safetensors")
    resumed = Pretraining.load(get_pde(name), tmp_path / "run.safetensors")
    assert resumed.update == 6
    list(resumed.run())
    for part in ("model", "ema"):
        expected, found = getattr(straight, part).state_dict(), getattr(resumed, part).state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_slow_solver_is_asked_once_and_its_fields_are_turned(monkeypatch, tmp_path):
    """Batches come from a pool, each field under a symmetry; the pool is kept in the state of the run."""
    pde, calls = get_pde("kolmogorov"), []
    real = pde.generate
    monkeypatch.setattr(pde, "generate", lambda *request: calls.append(request) or real(*request))
    run = tiny_run("kolmogorov", replace(TINY_RUN, samples=16))
    list(run.run())
    run.save(tmp_path / "run.state")
    again = Pretraining.load(pde, tmp_path / "run.state")
    again.config = replace(again.config, samples=32)
    list(again.run())
    assert len(calls) == 1
    assert torch.equal(again.pool, run.pool)
    assert len(run.pool) == pde.training_pool
    batch = run.batch(torch.Generator().manual_seed(1))
    orbit = torch.cat([pde.transform(run.pool, k) for k in range(pde.symmetries)])
    found = [(orbit == one).flatten(1).all(1).any() for one in batch]
    assert all(found)
    assert not all((run.pool == one).flatten(1).all(1).any() for one in batch)


def test_the_network_trains_in_bfloat16_only_where_that_is_native(monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(pretraining, "native_bfloat16", lambda device, native=native: native)
        run, seen = tiny_run(config=replace(TINY_RUN, samples=8)), []
        run.model.network.out_conv.register_forward_hook(lambda *a, seen=seen: seen.append(a[-1].dtype))
        (step,) = run.run()
        assert seen == [torch.bfloat16 if native else torch.float32]
        assert 0 < step.loss < 10
        assert all(p.dtype == torch.float32 for p in run.model.parameters())


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
    "change", [{"config": {"colour": "red"}}, {"network": tiny_config("poisson", "isotropic").to_dict()}]
)
def test_a_state_that_does_not_fit_is_refused(change, tmp_path):
    run = tiny_run(config=replace(TINY_RUN, prior_box=0))
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items() if "out_conv" not in k}
    meta = {"update": 1, "seconds": 1.0, "config": asdict(run.config), "network": run.model.config.to_dict()}
    save_run(tmp_path / "run.state", tensors, run.optimiser, meta | {"pde": "poisson"} | change)
    with pytest.raises(InputError, match="version"):
        Pretraining.load(get_pde("poisson"), tmp_path / "run.state")


@pytest.mark.parametrize(("asked", "box"), [(0, 0), (5, 5), (32, 16)])
def test_modes_are_those_of_the_grid(asked, box, tmp_path):
    """No more modes an axis are taken together than the grid has; without a prior there are none."""
    run = tiny_run(config=replace(TINY_RUN, samples=8, prior_box=asked))
    list(run.run())
    run.export(tmp_path / "a.safetensors")
    bases = [list(channel.basis) for channel in run.pde.channels] if box else []
    assert read_info(tmp_path / "a.safetensors").prior == {"box": box, "bases": bases, "rank": 0}
    assert run.config.prior_box == box
    run.save(tmp_path / "a.state")
    assert Pretraining.load(run.pde, tmp_path / "a.state").config == run.config


def test_the_sampler_to_recommend_goes_with_the_checkpoint(tmp_path):
    run = tiny_run(config=replace(TINY_RUN, samples=8, sigma_min=0.05, sigma_max=20.0, rho=3.0, solver="heun"))
    run.export(tmp_path / "a.safetensors")
    expected = {"steps": 20, "sigma_min": 0.05, "sigma_max": 20.0, "rho": 3.0, "solver": "heun"}
    assert read_info(tmp_path / "a.safetensors").sampler == expected


def test_longer_runs_decay_later(tmp_path):
    """More samples for a resumed run: the decay is planned anew, and ends at zero after them."""
    run = tiny_run(config=replace(TINY_RUN, samples=40))
    list(run.run())
    assert run.learning_rate() == pytest.approx(0)
    run.save(tmp_path / "a.state")
    longer = Pretraining.load(run.pde, tmp_path / "a.state")
    longer.config = replace(longer.config, samples=80)
    assert longer.learning_rate() == pytest.approx(0.5 * longer.config.learning_rate)
    assert list(longer.run())[-1].samples == 80


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 0}, {"samples": 8.0}, {"samples": True}, {"batch": 0}, {"batch": "8"}, {"batch": 10**9},
        {"learning_rate": 0}, {"learning_rate": float("nan")}, {"learning_rate": 2}, {"learning_rate": "fast"},
        {"warmup_samples": 0}, {"noise_mean": float("inf")}, {"noise_std": -1}, {"ema_samples": 0},
        {"prior_box": -1}, {"prior_box": 129}, {"prior_box": 8.0}, {"prior_samples": 7}, {"prior_samples": 2**21},
        {"sigma_min": 0}, {"sigma_min": 100}, {"sigma_min": None}, {"sigma_max": 0.01}, {"rho": 0}, {"solver": "ode"},
        {"seed": -1}, {"seed": 2**63}, {"seed": 1.5},
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
        {"attention": (True,)}, {"patch": 3}, {"patch": 0}, {"patch": 2.0}, {"patch": 8}, {"padding": ("zeros",)},
        {"padding": ("zeros", "mirror")}, {"padding": "zeros"}, {"row_waves": (0,)}, {"row_waves": ("1",)},
        {"row_waves": 4.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_networks_are_refused(changes):
    config = NetworkConfig(16, 4, 2, 8, (1, 2, 2), 1, (8,))
    assert config.check() is config
    with pytest.raises(InputError, match=r"^[^\n]{,200}$"):
        replace(config, **changes).check()


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
    assert config.build(1, 16).inputs == config.inputs


@pytest.mark.parametrize("kind", ["isotropic", "modes"])
def test_a_network_that_does_not_fit_is_refused(kind):
    darcy, config = get_pde("darcy"), replace(TINY_RUN, prior_box=0 if kind == "isotropic" else 4)
    with pytest.raises(InputError, match="halved"):
        Pretraining(darcy, replace(tiny_config("darcy", kind), resolution=17), config)
    other = tiny_config("darcy", "modes" if kind == "isotropic" else "isotropic")
    with pytest.raises(InputError, match="channels"):
        Pretraining(darcy, other, config)
    wide = replace(tiny_config("darcy"), resolution=64)
    with pytest.raises(InputError, match="joint modes"):
        Pretraining(darcy, wide, replace(TINY_RUN, prior_box=64))


@every_pde
def test_training_data_is_not_that_of_a_small_seed(name):
    pde = get_pde(name)
    size = pde.min_resolution
    batches = [training_data(pde, 2, size, seed, chunk) for seed in (0, 1) for chunk in (0, 1, PRIOR_CHUNK)]
    held_out = [pde.normalise(pde.generate(2, size, seed)) for seed in range(4)]
    samples = torch.cat(batches + held_out).flatten(1)
    assert len(torch.unique(samples, dim=0)) == len(samples)
