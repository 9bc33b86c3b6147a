"""Work on a GPU where there is one: on Spaces with a shared GPU (ZeroGPU) in a process of its own, for the seconds
asked for; on a machine with one, at once; elsewhere on the CPU. This is sampling; `gpu_training` trains.

A task for a shared GPU is a generator function of this module whose arguments and results are pickled. Its process is
used again, and without one it runs in this process, so it computes with copies and leaves what it was given as it is.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import wraps

import gradio as gr
import torch

from .. import comparison as cmp
from ..checkpoints import Checkpoint
from ..diffusion.sampler import Schedule
from ..library import Library
from ..methods.pirf_config import DivergedError
from ..pdes.base import InputError

spaces = None
with suppress(ImportError):
    import spaces

START, LONGEST = 15, 120  # seconds: until a process has its GPU and its models; the most that is asked for
EVALUATION = 0.004  # seconds a sample, generously, on what ZeroGPU lends
TOLD = (InputError, DivergedError)


def on_gpu(seconds: Callable[..., float]) -> Callable:
    """Decorates a generator function: it runs where a GPU is, for which `seconds(*arguments)` are asked. What is wrong
    is raised to the caller as it is: across processes an exception would arrive without its sentence."""

    def decorate(task: Callable[..., Iterator]) -> Callable[..., Iterator]:
        @wraps(task)
        def carried(*arguments):
            try:
                yield from task(*arguments)
            except TOLD as error:
                yield error

        duration = lambda *arguments: min(LONGEST, math.ceil(START + seconds(*arguments)))  # noqa: E731
        lent = spaces.GPU(duration=duration)(carried) if spaces else carried

        @wraps(task)
        def run(*arguments):
            try:
                for result in lent(*arguments):
                    if isinstance(result, TOLD):
                        raise result
                    yield result
            except gr.Error as error:  # no GPU was lent, for a reason: a quota, a queue, a time limit
                raise InputError(re.sub(r"<[^>]*>", "", str(error.message))) from None

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


def run(library: Library, settings: cmp.Settings) -> Iterator[cmp.Preview | cmp.Comparison]:
    """`comparison.run` on the GPU. Raises InputError: at once for models that cannot be loaded."""
    return sampled(settings, *cmp.models(library, settings))
