"""Pre-training: data, recipes, resumed runs."""

from dataclasses import asdict, replace

import pytest
import torch
from tiny import tiny_config

from pirf_app.common.checks import InputError
from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.sampler import initial_noise
from pirf_app.models.checkpoint import read_info
from pirf_app.pdes import get_pde, pde_names
from pirf_app.training import pretraining
from pirf_app.training.pretraining import PRIOR_CHUNK, PretrainConfig, Pretraining, training_data
from pirf_app.training.run_state import save_run

pytestmark = pytest.mark.usefixtures("quick_data")
every_pde = pytest.mark.parametrize("name", pde_names())


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
    model = Denoiser(run.model.config, run.model.prior_config, run.pde.hints)
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
