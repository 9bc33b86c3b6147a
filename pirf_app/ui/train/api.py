"""The endpoint `/finetune`: a training run without the page."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from ...common.checks import InputError
from ...common.signatures import spelled_out
from ...methods.presets import PRESETS
from ...methods.registry import DEFAULT, METHODS, SETTINGS, default_of, find_method
from ...training.events import TuningStep
from ..serving.lanes import Place, queued
from ..serving.offered import beginning
from ..serving.server import Server
from .prepare import prepare
from .recipes import Recipes
from .run import FAILED, TrainingRun

TELL_SECONDS = 1.0
log = logging.getLogger(__name__)


DESCRIPTION = """Fine-tunes a copy of a model by a method: with `preset` for about that time, or with `updates`;
whatever else is given is kept. Streams how the run stands, and ends with the same, the history, and the `.safetensors`
file; the session that called may name the result in `/compare`.

`phase` is waiting, drawing or tuning while it goes on. The last one is complete, stopped or diverged (what was learned
by then is in the file); or refused, failed, stopped or diverged where there is nothing, and no file. Then `message`
says why, and the call ends with that as its error.

Parameters:
"""
REQUEST = {
    "pde": "the benchmark",
    "method": "one of " + ", ".join(f"{name} ({m.title}, {m.does}, {m.source})" for name, m in METHODS.items()),
    "preset": f"one of {', '.join(PRESETS)}: what fits that time at this machine's speed",
    "start": "the model to start from: base, or one of your own (my:NAME)",
    "name": "of the result; chosen for you unless given",
}


def description() -> str:
    """The endpoint in words, with all its parameters, as gradio reads them from a docstring."""
    said = REQUEST | {name: about(name) for name, known in SETTINGS.items() if known.label}
    return DESCRIPTION + "\n".join(f"    {name}: {text}" for name, text in said.items())


def about(name: str) -> str:
    """A setting in words: what it is, its bounds, its default by method."""
    known = SETTINGS[name]
    text = " (may be text)" if known.is_long else ", as text" if known.kind is tuple else ""
    return f"{known.help}: {known.narrowed.bounds}{text}; default {default_of(name)}"


def row(step: TuningStep | None) -> dict | None:
    return asdict(step) if step else None


def told(run: TrainingRun, ahead: int = 0) -> dict:
    """How the run stands, ready for JSON: the latest update, and the latest one that was checked on held-out noise."""
    history = run.history
    return {
        "name": run.name,
        "phase": run.phase,
        "message": run.message,
        "ahead": ahead,
        "update": history.done,
        "updates": history.updates,
        "latest": row(history.steps[-1] if history.steps else None),
        "held_out": row(history.held[-1] if history.held else None),
        "warning": history.warning,
    }


def without_result(run: TrainingRun | None, name: str, message: str) -> dict:
    """The last state of a run that leaves nothing behind; without a run, of a request that was refused."""
    if run is None:
        empty = dict.fromkeys(("latest", "held_out", "warning")) | dict.fromkeys(("ahead", "update", "updates"), 0)
        return {"name": str(name), "phase": "refused", "message": message} | empty
    kept = run.phase != "complete"  # else it is the result that could not be kept
    return told(run) | {"phase": run.phase if kept else "failed", "message": message}


def add_finetune(server: Server, recipes: Recipes, limits: dict) -> None:
    """Adds the endpoint inside an open `gr.Blocks` context."""
    visitors, lanes = server.visitors, server.lanes
    holder = gr.File(visible=False)  # whose files gradio serves, and deletes in time

    def finetune(
        pde: str,
        method: str = DEFAULT,
        preset: str | None = None,
        updates: int | None = None,
        seed: int | None = None,
        start: str = "base",
        name: str = "",
        request: gr.Request = None,
        **settings: Any,
    ) -> dict:
        values = settings | {"updates": updates, "seed": seed}
        visitor, run = visitors.of(request.session_hash), None
        try:
            find_method(method).check_settings(k for k, v in values.items() if v is not None)
            if preset:
                base = beginning(visitor.models, pde, start)
                config = recipes.preset(preset, base, method, values)
                values = asdict(config) | {k: v for k, v in values.items() if v is not None}
            elif updates is None:
                raise InputError("give either a preset or a number of updates")
            run = prepare(visitor, recipes, pde, start, method, values, name)
            run.claim()
            with lanes.training.join() as place, run.finishing(lanes, visitor.models):
                yield from stream(run, place)
            if "last" not in run.models:
                raise InputError(run.message or "the run was stopped before its first update: there is no result")
            model = run.models["last"]
            path = holder.move_resource_to_block_cache(model.path)
            yield told(run) | {
                "model": model.method,
                "sha256": model.sha256,
                "history": [asdict(step) for step in run.history.steps],
                "figures": model.info.recipe.get("checks", {}),
                "command": run.command,
                "file": gr.FileData(path=path, orig_name=model.path.name).model_dump(),
            }
        except InputError as error:
            yield without_result(run, name, str(error))  # who reads the stream does not see the error
            raise gr.Error(str(error), print_exception=False) from None
        except Exception as error:
            log.exception("a run failed")
            yield without_result(run, name, FAILED)
            raise gr.Error(FAILED, print_exception=False) from error

    def stream(run: TrainingRun, place: Place) -> Iterator[dict]:
        said = 0.0
        for ahead in queued(place):
            yield told(run, ahead)
        for _ in run.work(lanes):
            if time.monotonic() - said >= TELL_SECONDS:
                said = time.monotonic()
                yield told(run)

    signature = spelled_out(finetune, {k: known.entered for k, known in SETTINGS.items() if known.label}, "name")

    def endpoint(*arguments: Any) -> Iterator[dict]:
        yield from finetune(**signature.bind(*arguments).arguments)

    text = description()
    endpoint.__signature__, endpoint.__doc__ = signature, text
    endpoint.__annotations__ = {k: parameter.annotation for k, parameter in signature.parameters.items()}
    gr.api(endpoint, api_name="finetune", api_description=text, **limits)
