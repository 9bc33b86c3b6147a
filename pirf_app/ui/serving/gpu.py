"""Work on a GPU where there is one: on Spaces with a shared GPU (ZeroGPU) in a process of its own, for the seconds
asked for; on a machine with one, at once; elsewhere on the CPU. This is sampling; `gpu_training` trains.

A task for a shared GPU is a generator function of this module whose arguments and results are pickled. Its process is
used again, and without one it runs in this process, so it computes with copies and leaves what it was given as it is.
"""

import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from copy import deepcopy
from functools import wraps
from queue import SimpleQueue

import gradio as gr
import torch

from ...common.checks import InputError
from ...common.threads import suitable_threads
from ...diffusion.sampler import Schedule
from ...evaluation import comparison as cmp
from ...models.checkpoint import Checkpoint
from ...models.library import AnyLibrary
from ...training.events import DivergedError

spaces = None
with suppress(ImportError):
    import spaces
if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "true", "t"):
    spaces = None  # Spaces have the package on any hardware

START, LONGEST = 15, 120  # seconds: until a process has its GPU and its models; the most that is asked for
EVALUATION = 0.004  # seconds a sample, generously, on what ZeroGPU lends
TOLD = (InputError, DivergedError)


class NotLentError(InputError):
    """No GPU was lent, or it was taken back, for a reason that is told."""


def read_ahead(results: Callable[[], Iterator]) -> Iterator:
    """`results()`, read by a thread of its own: to close what comes from another process is to wait for its end."""
    found: SimpleQueue = SimpleQueue()

    def read() -> None:
        try:
            for result in results():
                found.put((result, None))
            found.put((None, StopIteration()))
        except BaseException as error:
            found.put((None, error))

    # With this context: by it the seconds are charged to the visitor whose request this is.
    threading.Thread(target=copy_context().run, args=(read,), daemon=True, name="gpu").start()
    while True:
        result, error = found.get()
        if isinstance(error, StopIteration):
            return
        if isinstance(error, gr.Error):
            raise NotLentError(re.sub(r"<[^>]*>", "", str(error.message)))
        if error is not None:
            raise error
        yield result


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
            results = read_ahead(lambda: lent(*arguments)) if spaces else lent(*arguments)
            for result in results:
                if isinstance(result, TOLD):
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


def run(library: AnyLibrary, settings: cmp.Settings) -> Iterator[cmp.Preview | cmp.Comparison]:
    """`comparison.run` on the GPU, or on as many threads of the CPU as suit it now. Raises InputError: at once for
    models that cannot be loaded."""
    torch.set_num_threads(suitable_threads())
    return sampled(settings, *cmp.models(library, settings))
