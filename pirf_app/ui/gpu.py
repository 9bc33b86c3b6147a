"""Sampling on a GPU where there is one: on Spaces with a shared GPU (ZeroGPU) in a process of its own, for the seconds
asked for; on a machine with one, at once; elsewhere on the CPU.

A task for a shared GPU is a generator function of this module whose arguments and results are pickled. Its process is
used again, and without one it runs in this process, so it computes with copies and leaves what it was given as it is.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import wraps
from pathlib import Path

import torch

from .. import comparison as cmp
from ..checkpoints import Checkpoint
from ..diffusion.sampler import Schedule
from ..library import Library
from ..methods.pirf import PirfTuning
from ..methods.pirf_config import PirfConfig, PirfStep, PoolStep
from ..parallel import alone_on
from ..pdes.base import InputError

spaces = None
with suppress(ImportError):
    import spaces

START, LONGEST = 15, 120  # seconds: until a process has its GPU and its models; the most that is asked for
EVALUATION, UPDATE = 0.004, 0.012  # seconds a sample, generously, on what ZeroGPU lends


def on_gpu(seconds: Callable[..., float]) -> Callable:
    """Decorates a generator function: it runs where a GPU is, for which `seconds(*arguments)` are asked. An InputError
    is raised to the caller as it is: across processes an exception would arrive without its sentence."""

    def decorate(task: Callable[..., Iterator]) -> Callable[..., Iterator]:
        @wraps(task)
        def carried(*arguments):
            try:
                yield from task(*arguments)
            except InputError as error:
                yield error

        duration = lambda *arguments: min(LONGEST, math.ceil(START + seconds(*arguments)))  # noqa: E731
        lent = spaces.GPU(duration=duration)(carried) if spaces else carried

        @wraps(task)
        def run(*arguments):
            for result in lent(*arguments):
                if isinstance(result, InputError):
                    raise result
                yield result

        return run

    return decorate


def here(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints on the GPU, as copies that still share what they shared; themselves where there is none."""
    if not torch.cuda.is_available():
        return checkpoints
    copies = deepcopy(checkpoints)
    for checkpoint in copies:
        checkpoint.denoiser.to("cuda")
    return copies


def sampling_seconds(settings: cmp.Settings, checkpoints: list[Checkpoint], schedules: list[Schedule]) -> float:
    return EVALUATION * settings.n * sum(schedule.evaluations(settings.steps) for schedule in schedules)


@on_gpu(sampling_seconds)
def sampled(settings: cmp.Settings, checkpoints: list[Checkpoint], schedules: list[Schedule]):
    yield from cmp.sample_all(settings, here(checkpoints), schedules)


def tuning_seconds(base: Checkpoint, config: PirfConfig) -> float:
    return config.updates * config.batch * config.last_steps * UPDATE + config.pool * EVALUATION * max(
        config.pool_steps
    )


@on_gpu(tuning_seconds)
def tuned(base: Checkpoint, config: PirfConfig) -> Iterator[PoolStep | PirfStep | bytes]:
    """The events of a PIRF run from `base`, which stays as it is, and last the content of the checkpoint file."""
    training = PirfTuning(base, config, alone_on("cuda" if torch.cuda.is_available() else "cpu"))
    yield from training.run()
    with tempfile.TemporaryDirectory(prefix="pirf-") as folder:
        path = Path(folder) / "tuned.safetensors"
        training.export(path)
        yield path.read_bytes()


def run(library: Library, settings: cmp.Settings) -> Iterator[cmp.Preview | cmp.Comparison]:
    """`comparison.run` on the GPU. Raises InputError: at once for models that cannot be loaded."""
    return sampled(settings, *cmp.models(library, settings))
