"""What an update is made of: warm-ups, the weight average, what holds the weights, symmetries. Each by a figure that
can be said without the code: a sum by hand, or what must not change."""

import math
from collections import deque
from dataclasses import replace

import pytest
import torch
from test_pretraining import TINY_RUN
from test_pretraining import tiny_run as pretraining_run
from tiny import info_of, tiny_config
from tiny_runs import SMALL, every_method, tiny_base, tiny_run, updates_of

from pirf_app.common.checks import InputError
from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.methods.pirf import PirfTuning
from pirf_app.models.checkpoint import Checkpoint
from pirf_app.pdes import get_pde
from pirf_app.training.optimisation import scheduled
from pirf_app.training.pretraining import Pretraining

pytestmark = pytest.mark.usefixtures("quick_data")


def flat(parameters) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in parameters]).double()


def test_the_weight_average_of_pretraining_reaches_back_a_tenth_of_the_way_at_first():
    """And by `ema_samples` later: what is a half-life of samples old counts half."""
    run = pretraining_run(config=replace(TINY_RUN, samples=160, ema_samples=10.0))
    batch, expected = run.config.batch, flat(run.model.network.parameters())
    for step in run.run():
        half_life = min(10.0, step.samples / 10)  # the latter up to 100 samples, that is 12 updates of 20
        keep = 0.5 ** (batch / half_life)
        expected = keep * expected + (1 - keep) * flat(run.model.network.parameters())
        torch.testing.assert_close(flat(run.ema.network.parameters()), expected, rtol=1e-4, atol=1e-6)


def test_a_long_average_does_not_stay_where_the_weights_began():
    run = pretraining_run(config=replace(TINY_RUN, samples=160, ema_samples=1e9))
    began = flat(run.model.network.parameters())
    list(run.run())
    ended, averaged = flat(run.model.network.parameters()), flat(run.ema.network.parameters())
    assert (averaged - ended).norm() < 0.5 * (began - ended).norm()


def test_the_learning_rate_of_pretraining_warms_up():
    """Over four updates of eight samples; the decay over a million samples is not felt by then."""
    run = pretraining_run(config=replace(TINY_RUN, samples=10**6, warmup_samples=32, learning_rate=1e-3))
    events, rates, used = run.run(), [], []
    for _ in range(6):
        rates.append(next(events).learning_rate)
        used += {group["lr"] for group in run.optimiser.param_groups}
    assert rates == used == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3], rel=1e-6)


@every_method
def test_the_learning_rate_of_tuning_warms_up(method):
    """Over four of so many updates that the decay is not felt by then."""
    run = tiny_run(method, updates=10**6, warmup=4, learning_rate=1e-3, validate_every=10**6)
    rates, used = [], []
    for event in run.run():
        if getattr(event, "learning_rate", 0) and event.update:
            rates.append(event.learning_rate)
            used += {group["lr"] for group in run.optimiser.param_groups}
        if len(rates) == 6:
            break
    assert rates == used == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3], rel=1e-6)


def test_a_run_is_not_taken_for_one_of_the_other_kind(tmp_path):
    """Both keep the state of their optimiser in the same way, and what they train differs."""
    path = tmp_path / "a.state"
    pretraining_run().save(path)
    with pytest.raises(InputError, match="a.state is not the state of a fine-tuning run"):
        PirfTuning.load(tiny_base(), path)
    tiny_run("pirf").save(path)
    with pytest.raises(InputError, match="a.state is not the state of a pre-training run"):
        Pretraining.load(get_pde("poisson"), path)


@pytest.mark.parametrize(
    ("ramp", "angle", "expected"), [(0.5, 0, 1.0), (3, 0, 2.0), (1, math.pi / 2, 1.0), (1, math.pi, 0)]
)
def test_a_learning_rate_ramps_up_and_decays_to_nothing(ramp, angle, expected):
    assert scheduled(2.0, ramp, angle) == pytest.approx(expected, abs=1e-12)


@every_method
def test_drift_is_a_mean_over_the_weights(method, monkeypatch):
    """So that its weight means the same whatever layers are trained: all weights moved by 0.1 are a drift of 0.1, and
    with nothing else to descend the gradient is that of its mean square."""
    run = tiny_run(method, updates=2, drift=7.0, clip=1e30)
    assert len(updates_of(run)) == 2
    run.config = replace(run.config, updates=3)
    with torch.no_grad():
        for parameter, start in zip(run.parameters, run.start, strict=True):
            parameter.copy_(start + 0.1)
    still = sum(p.sum() for p in run.parameters) * 0
    monkeypatch.setattr(run, "objective", lambda batch, rows: (still, torch.zeros(3)))
    deque(run.one_update(), 0)
    gradients = flat(p.grad for p in run.parameters)
    torch.testing.assert_close(gradients, torch.full_like(gradients, 7.0 * 2 * 0.1 / len(gradients)))
    (event,) = (event for event in run._report() if hasattr(event, "drift"))
    assert event.drift == pytest.approx(0.1, rel=1e-5)


class Pointwise(torch.nn.Module):
    """In place of a network: the same at every point, so that it turns with the fields."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.tensor([[0.6, -0.8], [0.5, 0.7]]))

    def freeze(self, trainable: str) -> list[torch.nn.Parameter]:
        return [self.weight.requires_grad_()]

    def forward(self, features: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.einsum("oc,nchw->nohw", self.weight, features))


@pytest.mark.parametrize("last_steps", [1, 2, 3])
def test_a_symmetry_turns_all_that_an_update_starts_from(last_steps):
    """State, sample and the solver's memory: where the model itself turns with the fields, an update is worth the same
    under every symmetry of the equation."""
    pde = get_pde("poisson")
    model = Denoiser(tiny_config("poisson", "isotropic"))
    model.network = Pointwise(model.config)
    base = Checkpoint(model.eval().requires_grad_(False), info_of(model, "poisson"), "ab" * 32)
    run = PirfTuning(base, replace(SMALL, pool=6, pool_steps=(6,), last_steps=last_steps, updates=1))
    list(run.run())
    assert (run.pool.memory[6] is None) == (last_steps == 1)
    with torch.no_grad():
        run.model.expert.network.weight.add_(0.1)
        told = [run.objective((6, torch.arange(6), k), torch.arange(6))[1] for k in range(pde.symmetries)]
    assert len(told) == 8
    for other in told[1:]:
        torch.testing.assert_close(other, told[0], rtol=1e-4, atol=1e-6)
