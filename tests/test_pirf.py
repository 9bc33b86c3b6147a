"""PIRF: what an update does, what it leaves alone, and what its reward sees."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from pde_data import every_pde
from tiny_runs import SMALL, STEPS, tiny_base, updates_of

from pirf_app.diffusion.sampler import SOLVERS, State, initial_noise, together, trajectory
from pirf_app.methods.pirf import PirfTuning
from pirf_app.methods.rewards import ResidualReward
from pirf_app.pdes import get_pde, pde_names
from pirf_app.training.events import TuningStep

pytestmark = pytest.mark.usefixtures("quick_data")
every_solver = pytest.mark.parametrize("solver", SOLVERS)
one_and_two = pytest.mark.parametrize("last_steps", [1, 2])


def shape_of(name: str) -> tuple[int, int, int]:
    return len(get_pde(name).channels), 16, 16


def fixed_loss(run: PirfTuning) -> float:
    """The reward's loss over the whole pool: the updates see batches of it."""
    with torch.no_grad():
        return sum(terms_of(run, k)[0].item() for k in run.pool.x)


def terms_of(run: PirfTuning, steps: int) -> tuple[torch.Tensor, ...]:
    return run.terms(run.finish(pool_state(run, steps), steps), run.pool.sample[steps])


def pool_state(run: PirfTuning, steps: int) -> State:
    return State(run.pool.x[steps], run.pool.memory[steps])


RECIPES = [{}, {"trainable": "last"}, {"trainable": "all"}, {"norm": "plain"}]


@pytest.mark.parametrize(
    ("name", "solver", "changes"),
    [
        *((name, "multistep", {"last_steps": 2}) for name in pde_names()),
        *(("poisson", "multistep", changes) for changes in RECIPES),
        *(("poisson", "heun", {"last_steps": k}) for k in (1, 2)),
    ],
    ids=str,
)
def test_a_few_updates_lower_the_loss_of_the_pool(name, solver, changes):
    run = PirfTuning(tiny_base(name, solver), replace(SMALL, updates=8, learning_rate=3e-3, **changes))
    events = run.run()
    while not isinstance(next(events), TuningStep):
        pass
    before = fixed_loss(run)
    list(events)
    assert fixed_loss(run) < 0.99 * before


def test_loss_starts_at_the_number_of_its_norms():
    for norm, start in (("plain", 1.0), ("two-norm", 2.0)):
        run = PirfTuning(tiny_base(), replace(SMALL, norm=norm, batch=96, updates=1))
        assert updates_of(run)[0].loss == pytest.approx(start, rel=0.1)


def test_only_the_chosen_layers_change_and_the_base_never_does():
    base = tiny_base()
    before = {k: v.clone() for k, v in base.denoiser.state_dict().items()}
    for trainable in ("last", "highres"):
        run = PirfTuning(base, replace(SMALL, updates=3, trainable=trainable))
        list(run.run())
        tuned = run.result()
        changed = {k for k, v in tuned.expert.state_dict().items() if not torch.equal(v, before[k])}
        allowed = {f"network.{n}" for n, p in run.model.expert.network.named_parameters() if p.requires_grad}
        assert changed
        assert changed <= allowed
        assert all(torch.equal(v, before[k]) for k, v in base.denoiser.state_dict().items())
        assert all(torch.equal(v, before[k]) for k, v in tuned.base.state_dict().items())
        assert not any(p.requires_grad for p in tuned.parameters())


@cache
def finished(solver: str, last_steps: int) -> PirfTuning:
    """A run whose result has the last weights, not their average."""
    run = PirfTuning(tiny_base(solver=solver), replace(SMALL, last_steps=last_steps, learning_rate=1e-2))
    list(run.run())
    run.average = [p.detach().clone() for p in run.parameters]
    return run


@one_and_two
@every_solver
@pytest.mark.parametrize("steps", [STEPS, 9])
def test_trajectory_down_to_the_handover_is_the_base_models(last_steps, solver, steps):
    """Tuning must not touch what is drawn: both models share every state down to the handover, at any step count."""
    run = finished(solver, last_steps)
    tuned, noise, schedule = run.result(), initial_noise(2, (2, 16, 16), 5), run.schedule(steps)
    with torch.no_grad():
        alone = [list(trajectory(model, noise, schedule)) for model in (run.base.denoiser, tuned)]
    pairs = list(zip(*alone, strict=True))
    above = [torch.equal(a.x, b.x) for a, b in pairs if a.sigma >= tuned.handover * (1 - 1e-4)]
    assert above
    assert all(above)
    assert not torch.equal(pairs[-1][0].x, pairs[-1][1].x)


@one_and_two
@every_solver
def test_what_is_trained_is_what_is_sampled(last_steps, solver):
    """From a handover state, the last K steps give the sample that the tuned model draws from the same noise."""
    run, noise = finished(solver, last_steps), initial_noise(2, (2, 16, 16), 5)
    with torch.no_grad():
        base, tuned = zip(*together([run.base.denoiser, run.result()], noise, run.schedule(STEPS)), strict=True)
        handover = base[STEPS - last_steps - 1].state
        torch.testing.assert_close(run.finish(handover, STEPS), tuned[-1].x)


@one_and_two
@pytest.mark.parametrize(("name", "solver"), [*((name, "multistep") for name in pde_names()), ("poisson", "heun")])
def test_the_pool_holds_all_that_its_samples_follow_from(name, solver, last_steps):
    """With the weights from before tuning, the last K steps from a state of the pool give the pool's sample; from the
    third step on, and only for K above 1, that needs what the multistep solver remembers."""
    base = tiny_base(name, solver, noise=0.05)
    run = PirfTuning(
        base, replace(SMALL, updates=1, pool=4, pool_steps=(STEPS, 5), validation=2, last_steps=last_steps)
    )
    list(run.run())
    run.model.expert = deepcopy(base.denoiser)
    remembers = solver == "multistep" and last_steps == 2
    with torch.no_grad():
        for steps, sample in run.pool.sample.items():
            state = pool_state(run, steps)
            assert (state.memory is not None) == remembers
            torch.testing.assert_close(run.finish(state, steps), sample, rtol=1e-3, atol=1e-3)
            if remembers:
                forgotten = run.finish(State(state.x), steps) - sample
                assert forgotten.abs().max() > 3 * (run.finish(state, steps) - sample).abs().max() + 1e-3


@every_pde
def test_inputs_are_for_the_anchor_and_the_solution_for_the_reward(name):
    """The residual cannot be lowered by changing what the solver is given, in physical units; the anchor sees only
    that, and is 1 for inputs off by what the linear denoiser leaves open at the handover."""
    run = PirfTuning(tiny_base(name), replace(SMALL, updates=1))
    list(run.run())
    pde, before, noise = run.pde, run.pool.sample[STEPS][:8], initial_noise(8, shape_of(name), 1)

    def losses(ends: torch.Tensor) -> tuple[float, float]:
        reward, anchor, *_ = run.terms(ends, before)
        return reward.item(), anchor.item()

    fields = pde.denormalise(before)
    moved = fields + 0.1 * fields.std() * noise
    reward, anchor = losses(before)
    assert anchor == pytest.approx(0, abs=1e-8)
    other = losses(pde.normalise(pde.hold_inputs(fields, moved)))
    assert other[0] == pytest.approx(reward, rel=1e-3)
    assert other[1] > 1e-3
    other = losses(pde.normalise(pde.hold_inputs(moved, fields)))
    assert other[0] > 1.1 * reward
    assert other[1] == pytest.approx(0, abs=1e-6)
    off = run.base.denoiser.prior.scale(noise, torch.full((8,), run.model.handover))
    assert losses(before + off)[1] == pytest.approx(1, abs=0.35)


def test_regularisation_holds_the_weights_and_the_anchor_holds_the_inputs():
    base = tiny_base(noise=0.02)  # so that its layers tie the inputs to the solution

    def last(**changes):
        return updates_of(PirfTuning(base, replace(SMALL, updates=12, learning_rate=3e-3, **changes)))[-1]

    free = last(drift=0.0, anchor=0.0)
    assert last(drift=1e5, anchor=0.0).drift < 0.5 * free.drift
    assert last(drift=0.0, anchor=1e3).anchor < 0.7 * free.anchor


@every_pde
def test_samples_are_held_in_the_second_norm(name):
    def moved(hold: float) -> float:
        base = tiny_base(name, noise=0.02)
        run = PirfTuning(base, replace(SMALL, updates=12, learning_rate=3e-3, norm="plain", hold=hold))
        list(run.run())
        run.config = replace(run.config, hold=1.0)
        with torch.no_grad():
            return terms_of(run, STEPS)[2].item()

    assert moved(100.0) < 0.8 * moved(0.0)


@every_pde
def test_reward_prefers_solver_data(name):
    pde = get_pde(name)
    data = pde.generate(4, 16, 3)
    broken = pde.hold_inputs(1.2 * data, data)
    for norm in ("plain", "two-norm"):
        reward = ResidualReward.calibrated(pde, broken, norm)
        assert reward.loss(data) < 1e-4
        assert reward.loss(broken).item() == pytest.approx(1.0 if norm == "plain" else 2.0, rel=1e-3)


def test_two_norms_see_what_the_plain_one_overlooks():
    """The same residual RMS at a low frequency stands for a far larger error of the solution."""
    pde, fields = get_pde("poisson"), get_pde("poisson").generate(1, 32, 3).double()
    line = torch.linspace(0, 1, 32, dtype=torch.float64)
    losses = {"plain": [], "two-norm": []}
    broken = fields.clone()
    broken[:, 1] *= 1.1
    for k in (1, 20):
        mode = torch.outer((torch.pi * k * line).sin(), (torch.pi * k * line).sin())
        for norm, values in losses.items():
            reward = ResidualReward.calibrated(pde, broken, norm)
            values.append(reward.loss(fields + torch.stack([mode, torch.zeros_like(mode)])).item())
    assert losses["plain"][0] == pytest.approx(losses["plain"][1], rel=1e-3)
    assert losses["two-norm"][0] > 5 * losses["two-norm"][1]
