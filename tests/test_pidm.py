"""PIDM: what its loss sees of data, noise and residual, and what an update does with it."""

from collections import deque
from dataclasses import replace

import pytest
import torch
from pde_data import every_pde
from tiny_runs import SMALL_OF, STEPS, tiny_base, tiny_run

from pirf_app.common.streams import TRAINING_DATA, derived_seed
from pirf_app.methods.pidm import PidmTuning
from pirf_app.models.checkpoint import load_checkpoint
from pirf_app.training.pretraining import training_data

pytestmark = pytest.mark.usefixtures("quick_data")


def drawn(name: str = "poisson", **changes) -> PidmTuning:
    """A run that has its data and its units."""
    run = tiny_run("pidm", tiny_base(name), **changes)
    deque(run.draw_pool(), 0)
    deque(run.calibrate(), 0)
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
@pytest.mark.parametrize(("weight", "last_steps"), [(0.0, 1), (2.0, 1), (1.0, 3)])
def test_both_terms_are_one_before_tuning(name, weight, last_steps):
    run = drawn(name, pool=48, residual_weight=weight, last_steps=last_steps)
    clean = run.data.repeat(4, 1, 1, 1)
    batch = (clean, *run._noise(len(clean), torch.Generator().manual_seed(5)))
    told = run.objective(batch, torch.arange(len(clean)))[1]
    assert told[1] == pytest.approx(1, rel=0.2)
    assert told[0] == pytest.approx(1 + weight, rel=0.3)


def test_a_run_from_a_tuned_model_starts_its_curves_there(tmp_path):
    base = tiny_base()
    run = tiny_run("pidm", base, updates=40, batch=12, learning_rate=3e-3, validate_every=40)
    list(run.run())
    run.export(tmp_path / "own.safetensors")
    own = load_checkpoint(tmp_path / "own.safetensors", lambda _: base)
    first, then, *_ = (e for e in tiny_run("pidm", own, learning_rate=1e-9, batch=12).run() if hasattr(e, "loss"))
    start = next(e for e in tiny_run("pidm", base).run() if hasattr(e, "loss"))
    assert (start.loss, start.anchor) == pytest.approx((2, 1))
    assert first.loss < 0.98 * start.loss
    assert first.loss == pytest.approx(then.loss, rel=0.2)


def test_every_field_is_seen_under_the_symmetries_of_its_equation():
    run, found = drawn("darcy", pool=1, batch=1), []
    for _ in range(60):
        clean, *_ = run.batch(torch.Generator().manual_seed(len(found)))
        found.append(clean)
    orbit = [run.pde.turned(run.data, k) for k in range(run.pde.symmetries)]
    seen = {next(k for k, one in enumerate(orbit) if torch.equal(one, clean)) for clean in found}
    assert seen == set(range(run.pde.symmetries))


@every_pde
def test_updates_lower_the_loss_on_the_data(name):
    run = tiny_run("pidm", tiny_base(name), updates=40, batch=12, learning_rate=3e-3, last_steps=2, validate_every=40)
    deque(run.draw_pool(), 0)
    deque(run.calibrate(), 0)
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
