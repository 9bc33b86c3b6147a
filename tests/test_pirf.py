"""PIRF: what an update does, what it leaves alone, and that runs can be stopped, resumed and repeated."""

import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache

import pytest
import torch
from tiny import info_of, prior_config, tiny_config

from pirf_app.checkpoints import Checkpoint, InputError, load_checkpoint, read_info
from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.prior import ModePrior
from pirf_app.diffusion.sampler import SOLVERS, State, initial_noise, together, trajectory
from pirf_app.library import Library
from pirf_app.methods.pirf import PirfTuning
from pirf_app.methods.pirf_config import DivergedError, PirfConfig, PirfStep, PoolStep
from pirf_app.methods.rewards import ResidualReward
from pirf_app.pdes import get_pde, pde_names

pytestmark = pytest.mark.usefixtures("quick_data")
every_pde = pytest.mark.parametrize("name", pde_names())
every_solver = pytest.mark.parametrize("solver", SOLVERS)
one_and_two = pytest.mark.parametrize("last_steps", [1, 2])
STEPS = 4
SMALL = PirfConfig(
    updates=4, pool=12, pool_steps=(STEPS,), batch=6, learning_rate=1e-3, warmup=2, validate_every=2, validation=4,
)  # fmt: skip


@cache
def fitted(name: str) -> ModePrior:
    pde, config = get_pde(name), prior_config(name)
    return ModePrior.fit(pde.normalise(pde.generate(100, 16, 1)), config.box, config.bases)


def tiny_base(name: str = "poisson", solver: str = "multistep", noise: float = 0.0) -> Checkpoint:
    """The best linear denoiser of the benchmark on 16 x 16, with an untrained network on top; `noise` on its weights
    makes it do something."""
    torch.manual_seed(0)
    model = Denoiser(tiny_config(name), prior_config(name), get_pde(name).hints)
    model.prior.load_state_dict(fitted(name).state_dict())
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    info = info_of(model, name, solver=solver)
    return Checkpoint(model.eval().requires_grad_(False), info, "ab" * 32)


def shape_of(name: str) -> tuple[int, int, int]:
    return len(get_pde(name).channels), 16, 16


def updates_of(run: PirfTuning) -> list[PirfStep]:
    return [event for event in run.run() if isinstance(event, PirfStep) and event.update]


def weights_of(run: PirfTuning) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*run.parameters, *run.average)]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def fixed_loss(run: PirfTuning) -> float:
    """The reward's loss over the whole pool: the updates see batches of it."""
    with torch.no_grad():
        return sum(run._loss(pool_state(run, k), run.pool.sample[k], k)[0].item() for k in run.pool.x)


def pool_state(run: PirfTuning, steps: int) -> State:
    return State(run.pool.x[steps], run.pool.memory[steps])


@every_pde
def test_events(name):
    events = list(PirfTuning(tiny_base(name), SMALL).run())
    pool = [e for e in events if isinstance(e, PoolStep)]
    steps = [e for e in events if isinstance(e, PirfStep)]
    assert pool + steps == events
    assert pool
    assert all(0 <= e.done <= e.total for e in pool)
    assert [e.update for e in steps] == list(range(5))
    assert [e.update for e in steps if e.validation_residual is not None] == [0, 2, 4]
    assert all(torch.tensor([e.loss, e.residual_rms, e.anchor, e.drift]).isfinite().all() for e in steps)
    seconds = [e.seconds for e in steps]
    assert seconds == sorted(seconds)


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
    while not isinstance(next(events), PirfStep):
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
    tuned, noise, schedule = run.result(), initial_noise(2, (2, 16, 16), 5), run._schedule(steps)
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
        base, tuned = zip(*together([run.base.denoiser, run.result()], noise, run._schedule(STEPS)), strict=True)
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
        run.finish = lambda state, steps: ends
        reward, anchor, _ = run._loss(State(before), before, STEPS)
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


def test_same_seed_same_result_and_another_seed_another():
    runs = [PirfTuning(tiny_base(), replace(SMALL, seed=seed)) for seed in (3, 3, 4)]
    for run in runs:
        list(run.run())
    assert same(weights_of(runs[0]), weights_of(runs[1]))
    assert not same(weights_of(runs[0]), weights_of(runs[2]))


@pytest.mark.parametrize("stop_after", ["pool", 2])
def test_stop_and_resume_gives_the_same_result(tmp_path, stop_after):
    config = replace(SMALL, pool_steps=(STEPS, 6), last_steps=2)
    straight = PirfTuning(tiny_base(), config)
    list(straight.run())
    broken = PirfTuning(tiny_base(), config)
    events = broken.run()
    for event in events:
        if stop_after == "pool" or (isinstance(event, PirfStep) and event.update == stop_after):
            break
    events.close()
    broken.save(tmp_path / "run.state")
    resumed = PirfTuning.load(tiny_base(), tmp_path / "run.state")
    assert resumed.config == config
    rest = updates_of(resumed)
    if stop_after != "pool":
        for part in ("x", "memory", "sample"):
            assert same(*(list(getattr(r.pool, part).values()) for r in (broken, resumed)))
    assert rest[0].update == (1 if stop_after == "pool" else 3)
    assert same(weights_of(straight), weights_of(resumed))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    run = PirfTuning(tiny_base(), replace(SMALL, updates=2))
    list(run.run())
    run.save(tmp_path / "run.state")
    resumed = PirfTuning.load(tiny_base(), tmp_path / "run.state")
    assert updates_of(resumed) == []
    assert same(weights_of(run), weights_of(resumed))


def test_a_run_belongs_to_its_base(tmp_path):
    run = PirfTuning(tiny_base(), SMALL)
    run.save(tmp_path / "run.state")
    with pytest.raises(ValueError, match="base"):
        PirfTuning.load(replace(tiny_base(), sha256="cd" * 32), tmp_path / "run.state")


def test_whoever_listens_keeps_its_gradients():
    """An event generator must not leave its no-gradient mode switched on for the caller between two events."""
    for _ in PirfTuning(tiny_base(), replace(SMALL, updates=2)).run():
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_export_and_load(tmp_path):
    base = tiny_base()
    run = PirfTuning(base, SMALL)
    list(run.run())
    path = tmp_path / "tuned.safetensors"
    sha256 = run.export(path, {"residual_rms": 2.0})
    info = read_info(path)
    assert (info.method, info.parent, info.figures) == ("pirf", base.sha256, {"residual_rms": 2.0})
    assert info.recipe["config"] == asdict(SMALL) | {"pool_steps": list(SMALL.pool_steps)}
    loaded = load_checkpoint(path, lambda sha: base, sha256)
    x, sigma = initial_noise(2, (2, 16, 16), 0), torch.tensor(run.model.handover)
    expected, found = run.result()(x, sigma), loaded.denoiser(x, sigma)
    assert (found - expected).norm() < 2e-3 * expected.norm()


def test_divergence_is_reported_and_leaves_finite_weights():
    run = PirfTuning(tiny_base(), replace(SMALL, updates=20, warmup=1, learning_rate=1e15, clip=1e30))
    with pytest.raises(DivergedError, match=r"^[^\n]+$"):
        list(run.run())
    assert all(p.isfinite().all() for p in run.result().parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 0}, {"updates": -1}, {"pool": 0}, {"batch": 0}, {"validation": 0}, {"warmup": 0},
        {"last_steps": 0}, {"last_steps": STEPS}, {"last_steps": 99}, {"pool_steps": ()}, {"pool_steps": (1,)},
        {"trainable": "encoder"}, {"norm": "l7"}, {"learning_rate": float("nan")}, {"learning_rate": -1.0},
        {"error_weight": -1.0}, {"drift": float("inf")}, {"clip": 0.0}, {"ema": 1.5}, {"seed": -1}, {"seed": 2**63},
    ],
    ids=str,
)  # fmt: skip
def test_bad_recipes_are_refused_in_one_sentence(changes):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        replace(SMALL, **changes)


def test_largest_seed_works():
    assert updates_of(PirfTuning(tiny_base(), replace(SMALL, updates=1, seed=2**63 - 1)))


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


TUNING = """
import torch
from test_pirf import SMALL, replace, tiny_base, updates_of, PirfTuning

for layout in (torch.contiguous_format, torch.channels_last):
    for autocast in (False, True):
        base = tiny_base()
        base.denoiser.autocast = autocast
        base.denoiser.to(memory_format=layout)
        assert len(updates_of(PirfTuning(base, replace(SMALL, updates=3, trainable="highres")))) == 3
        print(layout, autocast, flush=True)
"""


def test_tuning_does_not_crash_the_process(request):
    """torch 2.13 on CPU dies in the backward pass of a partly frozen network in channels_last layout."""
    paths = os.pathsep.join(map(str, (request.config.rootpath, request.path.parent)))
    run = subprocess.run(
        [sys.executable, "-c", TUNING],
        capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr or f"no message: the process crashed after\n{run.stdout or 'nothing'}"
    assert len(run.stdout.splitlines()) == 4


@pytest.mark.slow
@pytest.mark.skipif(not Library().manifest(), reason="no checkpoints are bundled yet")
@every_pde
def test_tuning_a_bundled_model_improves_what_the_reward_never_saw(name):
    run = PirfTuning(Library().load(name, "base"), PirfConfig(updates=60, pool=64, validate_every=5, validation=16))
    checks = [e for e in updates_of(run) if e.validation_residual is not None]
    assert checks[-1].validation_residual < 0.9 * checks[0].validation_residual
    assert checks[-1].validation_solve_error < 1.05 * checks[0].validation_solve_error
