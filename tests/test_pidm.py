"""PIDM: what its loss sees of data, noise and residual, and what an update does with it."""

from dataclasses import replace

import pytest
import torch
from pde_data import every_pde
from tiny_runs import SMALL_OF, STEPS, tiny_base, tiny_run

from pirf_app.diffusion.pretraining import training_data
from pirf_app.methods.pidm import PidmTuning
from pirf_app.pdes.random_fields import TRAINING_DATA, derived_seed

pytestmark = pytest.mark.usefixtures("quick_data")


def drawn(name: str = "poisson", **changes) -> PidmTuning:
    """A run that has its data and its units."""
    run = tiny_run("pidm", tiny_base(name), **changes)
    for _ in run.draw_pool():
        pass
    run.calibrate()
    return run


class Estimate(torch.nn.Module):
    """A denoiser that says the same whatever it sees."""

    def __init__(self, run: PidmTuning, fields: torch.Tensor):
        super().__init__()
        self.fields, self.prior = fields, run.model.base.prior

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return self.fields


def terms(run: PidmTuning, estimate: torch.Tensor, clean: torch.Tensor, sigma: float) -> torch.Tensor:
    return run._terms(Estimate(run, estimate), clean, torch.zeros_like(clean), torch.full((len(clean),), sigma))


@every_pde
def test_the_truth_costs_nothing_and_a_residual_counts_less_under_more_noise(name):
    run = drawn(name)
    clean, low = run.data[:4], run.base.info.schedule.sigma_min
    off = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    right, wrong = terms(run, clean, clean, low), terms(run, off, clean, low)
    error, weighted, square = right.tolist()
    assert error == 0
    assert square < 1e-3 * wrong[2]
    assert weighted == pytest.approx(square, rel=1e-4)
    more = terms(run, off, clean, 2 * low)
    assert more[1] == pytest.approx(wrong[1].item() / 4, rel=1e-4)
    assert more[2] == wrong[2]
    variance = run.model.base.prior.error_variance(torch.full((4,), low))
    assert wrong[0] == pytest.approx(((off - clean).square() / variance).mean().item(), rel=1e-4)


@every_pde
def test_the_residual_moves_the_solution_and_not_what_the_solver_is_given(name, monkeypatch):
    run = drawn(name)
    clean = run.data[:4]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    fields = (clean + 0.1 * noise).requires_grad_()
    physical = run.pde.denormalise(fields)
    physical.retain_grad()
    monkeypatch.setattr(run.pde, "denormalise", lambda x: physical)
    terms(run, fields, clean, 0.1)[1].backward()
    held = run.pde.hold_inputs(torch.zeros_like(clean), torch.ones_like(clean)) > 0
    assert physical.grad[held].abs().max() == 0
    assert physical.grad[~held].abs().max() > 0


@every_pde
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_both_terms_are_one_before_tuning(name, weight):
    run = drawn(name, pool=48, residual_weight=weight)
    chance = torch.Generator().manual_seed(5)
    clean = run.data
    told = run.objective((clean, *run._noise(len(clean), chance)), torch.arange(len(clean)))[1]
    assert told[1] == pytest.approx(1, rel=0.3)
    assert told[0] == pytest.approx(1 + weight, rel=0.5)
    assert list(run.held_out(clean, clean)) == [1 + weight, 1]


@every_pde
def test_updates_lower_the_loss_on_the_data(name):
    run = tiny_run("pidm", tiny_base(name), updates=40, batch=12, learning_rate=3e-3, last_steps=2, validate_every=40)
    list(run.draw_pool())
    run.calibrate()
    batch = (run.data, *run._noise(len(run.data), torch.Generator().manual_seed(5)))

    def loss() -> float:
        with torch.no_grad():
            return run.objective(batch, torch.arange(len(run.data)))[0].item()

    before = loss()
    list(run.run())
    assert loss() < 0.98 * before


def test_noise_levels_are_those_that_the_tuned_weights_act_at():
    run = drawn(last_steps=3, pool_steps=(STEPS, 9))
    _, sigma = run._noise(2000, torch.Generator().manual_seed(1))
    low = run.base.info.schedule.sigma_min
    levels = [run.schedule(steps).sigmas()[-4].item() for steps in (STEPS, 9)]
    assert run.model.handover == pytest.approx(max(levels))
    assert sigma.min() == pytest.approx(low, rel=0.02)
    assert sigma.max() == pytest.approx(run.model.handover, rel=0.02)
    assert sigma.log().median().exp() == pytest.approx((low * run.model.handover) ** 0.5, rel=0.1)


def test_the_pool_is_training_data_whatever_its_size():
    small, large = drawn(pool=7), drawn(pool=40)
    assert len(small.data) == 7
    assert torch.equal(small.data, large.data[:7])
    assert torch.equal(large.data[32:], training_data(large.pde, 8, 16, SMALL_OF["pidm"].seed, 1))
    assert derived_seed(SMALL_OF["pidm"].seed, TRAINING_DATA, 1) >= 2**62  # nobody else's


def test_a_run_of_one_method_goes_on_from_the_other_s_model(tmp_path):
    """They tune the same steps of the trajectory."""
    from pirf_app.checkpoints import load_checkpoint

    base = tiny_base()
    run = tiny_run("pirf", base, learning_rate=1e-2)
    list(run.run())
    run.export(tmp_path / "pirf.safetensors")
    own = load_checkpoint(tmp_path / "pirf.safetensors", lambda _: base)
    after = PidmTuning(own, replace(SMALL_OF["pidm"], seed=1))
    list(after.run())
    after.export(tmp_path / "pidm.safetensors")
    info = load_checkpoint(tmp_path / "pidm.safetensors", lambda _: base).info
    assert (info.method, info.parent, info.recipe["began_with"]) == ("pidm", base.sha256, own.sha256)
