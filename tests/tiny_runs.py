"""Fine-tuning runs that take milliseconds; whoever draws their data uses `quick_data`."""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from tiny import info_of, prior_config, tiny_config

from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.prior import ModePrior
from pirf_app.methods.pirf import PirfConfig
from pirf_app.methods.registry import METHODS
from pirf_app.methods.speed import Speed
from pirf_app.models.checkpoint import Checkpoint
from pirf_app.pdes import get_pde
from pirf_app.training.config import TuningConfig
from pirf_app.training.events import TuningStep
from pirf_app.training.loop import TuningLoop

STEPS = 4
SMALL = PirfConfig(
    updates=4, pool=12, pool_steps=(STEPS,), batch=6, learning_rate=1e-3, warmup=2, validate_every=2, validation=4,
)  # fmt: skip
SMALL_OF = {
    name: method.config(**{f.name: getattr(SMALL, f.name) for f in fields(TuningConfig)})
    for name, method in METHODS.items()
}
every_method = pytest.mark.parametrize("method", METHODS)
SLOW = Speed(0.05, 0.12, 0.06, 4e6, 0.03)  # of the largest bundled network on two shared cores


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


def tiny_run(method: str, base: Checkpoint | None = None, **changes) -> TuningLoop:
    """A run of a method by its `SMALL` recipe, with changes."""
    return METHODS[method].tuning(base or tiny_base(), replace(SMALL_OF[method], **changes))


def updates_of(run: TuningLoop) -> list[TuningStep]:
    return [event for event in run.run() if isinstance(event, TuningStep) and event.update]


def weights_of(run: TuningLoop) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*run.parameters, *run.average)]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
