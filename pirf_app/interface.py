"""The library in a few names, for `import pirf_app as pirf`: load, sample, measure, solve, tune, save."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .common.checks import MAX_SEED, InputError, whole_number
from .evaluation.figures import draw_fields, figures
from .methods.pirf import PirfConfig, PirfTuning
from .methods.rewards import Reward
from .models.checkpoint import Checkpoint, save_checkpoint
from .models.library import Library
from .pdes import PDE, get_pde, pde_names
from .training.events import Event

__all__ = ["InputError", "Model", "generate", "load", "measure", "pde_names", "residual", "solve", "tune"]


@dataclass(frozen=True)
class Model:
    """A diffusion model of the fields of one benchmark."""

    checkpoint: Checkpoint

    @property
    def pde(self) -> PDE:
        """What its fields should solve; its methods take fields `[n, c, N, N]` in physical units."""
        return self.checkpoint.info.benchmark

    @property
    def resolution(self) -> int:
        return self.checkpoint.info.resolution

    @property
    def method(self) -> str:
        return self.checkpoint.info.method

    def sample(self, n: int = 4, steps: int = 10, seed: int = 0) -> Tensor:
        """Fields `[n, c, N, N]` in physical units; sample k of a seed does not depend on n. Raises InputError."""
        n, seed = whole_number("n", n, 1, 10**6), whole_number("seed", seed, 0, MAX_SEED)
        return draw_fields(self.checkpoint, steps, n, seed)[0]

    def save(self, path: str | Path) -> str:
        """Writes a checkpoint (.safetensors) and returns its SHA-256. Raises InputError."""
        if Path(path).suffix != ".safetensors":
            raise InputError(f"the name of a checkpoint must end in .safetensors, not {Path(path).name!r}")
        return save_checkpoint(Path(path), self.checkpoint.denoiser, self.checkpoint.info)

    def __repr__(self) -> str:
        return f"<{self.method} model of {self.pde.name} at {self.resolution}x{self.resolution}>"


def load(pde: str, method: str | Path = "pirf", resolution: int | None = None) -> Model:
    """The bundled model of a benchmark by method ("base", "pirf", ...), or that in a checkpoint file. Raises
    InputError."""
    return Model(Library().resolve(pde, str(method), resolution))


def residual(pde: str | PDE, fields: Tensor) -> Tensor:
    """What is left of the equation at each point `[n, N, N]`, differentiable in `fields [n, c, N, N]`."""
    return _benchmark(pde).residual(fields)


def solve(pde: str | PDE, fields: Tensor) -> Tensor:
    """The fields `[n, c, N, N]` that the solver gives for the inputs in `fields`. Raises InputError."""
    return _benchmark(pde).solve(fields)


def measure(pde: str | PDE, fields: Tensor) -> dict:
    """The figures of a report row: residual, forward-solve error, conservation, spectrum, distribution."""
    return figures(_benchmark(pde), fields)


def generate(pde: str | PDE, n: int, resolution: int = 64, seed: int = 0) -> Tensor:
    """Solver data `[n, c, N, N]` in physical units. Raises InputError."""
    return _benchmark(pde).generate(n, resolution, seed)


def tune(
    model: Model,
    updates: int = 50,
    reward: Reward | None = None,
    progress: Callable[[Event], None] | None = None,
    **recipe,
) -> Model:
    """`model` after so many PIRF updates: the physics reward, or one of your own, any differentiable function of fields
    `[n, c, N, N]` (physical units) that gives one number a sample. Its gradient reaches the solution channels.

    `recipe` takes what `finetune` takes: pool, batch, learning_rate, last_steps, trainable, seed, ... `progress` is
    called with every event. Raises InputError, and DivergedError where the loss stops being finite."""
    values = {"pool": 64, "batch": 8, "warmup": 5, "learning_rate": 3e-4, "validation": 8, "validate_every": 10**6}
    try:
        config = PirfConfig(updates=updates, **values | recipe)
    except TypeError as error:
        raise InputError(f"a recipe has no such setting ({str(error).split('argument ')[-1]})") from None
    run = PirfTuning(model.checkpoint, config, own_reward=reward)
    for event in run.run():
        if progress is not None:
            progress(event)
    return Model(Checkpoint(run.result().eval().requires_grad_(False), run.info(), ""))


def _benchmark(pde: str | PDE) -> PDE:
    return pde if isinstance(pde, PDE) else get_pde(pde)
