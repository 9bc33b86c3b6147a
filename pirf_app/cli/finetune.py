"""`python -m pirf_app finetune`: the events of a fine-tuning run on standard error, as JSON lines, and to a tracker."""

import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.checks import InputError
from ..common.files import unwritable, write_text
from ..common.parallel import Team, team
from ..common.signatures import spelled_out
from ..methods.presets import PRESETS, command_line, continued, estimate
from ..methods.presets import preset as preset_config
from ..methods.registry import DEFAULT, METHODS, SETTINGS, Method, default_of, find_method
from ..methods.speed import measure_speed
from ..models.checkpoint import Checkpoint
from ..models.library import Library
from ..pdes import pde_names
from ..training.config import Setting, TuningConfig
from ..training.events import DivergedError, Event, PoolStep, TuningStep
from ..training.run_state import Saves, check_interval
from ..training.tuning import STATES
from .options import Device, Parents, check_folder, say, state_beside, whole_numbers


def option(name: str, setting: Setting) -> Any:
    """A setting of the recipe: without it, what the preset chooses, else the default of each method that has it."""
    bounds = f": {setting.bounds}" if setting.choices or setting.is_long else ""
    flags = (f"--{name.replace('_', '-')}", f"-{setting.flag}") if setting.flag else ()
    return typer.Option(*flags, help=f"{setting.help}{bounds} (default: {default_of(name)})")


class EventLog:
    """Events as JSON lines in a file. A resumed run keeps the first `kept` lines: it repeats what came after."""

    def __init__(self, path: Path, kept: int):
        lines = path.read_text().splitlines(keepends=True)[:kept] if kept and path.exists() else []
        write_text(path, "".join(lines))
        self.path, self.failing = path, False
        self.file = open(path, "a")  # noqa: SIM115 - closed by `close`

    def write(self, name: str, values: dict) -> None:
        """One line; what is not finite, and JSON has no word for, is null. A run goes on where the log does not fit."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            print(json.dumps({"event": name} | clean, allow_nan=False), file=self.file, flush=True)
            self.failing = False
        except OSError as error:
            if not self.failing:
                say(f"{unwritable(self.path, error)}; the run goes on")
            self.failing = True

    def close(self) -> None:
        with suppress(OSError):  # what did not fit was told
            self.file.close()


class Tracker:
    """The figures of every update to a local Trackio project, by update. Raises InputError where that is missing."""

    def __init__(self, name: str, config: dict, resume: bool):
        try:
            import trackio
        except ImportError:
            raise InputError("--track needs trackio: pip install trackio, or leave the option out") from None
        self.trackio = trackio
        trackio.init(project="pirf", name=name, config=config, resume="allow" if resume else "never")

    def write(self, event: TuningStep) -> None:
        figures = {k: v for k, v in asdict(event).items() if isinstance(v, float) and math.isfinite(v)}
        self.trackio.log(figures, step=event.update)

    def close(self) -> None:
        self.trackio.finish()


def finetune(
    pde: Annotated[str, typer.Option(help=f"benchmark: {', '.join(pde_names())}")] = "darcy",
    method: Annotated[str, typer.Option(help=", ".join(METHODS))] = DEFAULT,
    base: Annotated[
        str, typer.Option("--from", "--base", help="method or file of the checkpoint to start from")
    ] = "base",
    out: Annotated[Path, typer.Option(help="file to write")] = Path("my.safetensors"),
    preset: Annotated[
        str | None, typer.Option(help=f"{', '.join(PRESETS)}: what fits that time at this machine's speed")
    ] = None,
    parent: Parents = None,
    device: Device = "auto",
    state: Annotated[str, typer.Option(help=f"which state to write: {', '.join(STATES)}")] = "last",
    log: Annotated[Path | None, typer.Option(help="write every event as a JSON line")] = None,
    track: Annotated[bool, typer.Option("--track", help="log the figures with Trackio, if it is installed")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the state beside the output")] = False,
    save_every: Annotated[float, typer.Option(help="seconds between saves of the state")] = 60.0,
    **settings: Any,
) -> None:
    """Tune a checkpoint with a physics objective. The state for --resume is kept beside OUT, with the suffix .state; a
    resumed run keeps its options. Options given with a preset replace what it would choose."""
    values = {name: taken(name, value) for name, value in settings.items() if value is not None}
    entry, beside = find_method(method), state_beside(out)
    check_interval(save_every)
    if log is not None and check_folder(log).resolve() in (out.resolve(), beside.resolve()):
        raise InputError(f"the log cannot be {log}, which the run itself writes")
    if state not in STATES:
        raise InputError(f"the state must be one of {', '.join(STATES)}, not {state!r}")
    workers, begin = team(device), Library().with_parents(parent).resolve(pde, base)
    if resume and beside.exists():
        run = entry.tuning.load(begin, beside, workers)
        other = [name for name, value in values.items() if getattr(run.config, name, value) != value]
        if other and workers.main:
            say(f"the run that is resumed keeps its own {', '.join(n.replace('_', '-') for n in other)}")
    else:
        if resume and workers.main:
            say(f"there is no {beside} to resume from: a new run begins")
        run = entry.tuning(begin, recipe(entry, begin, preset, values, workers), workers)
    writers = []
    if workers.main and log:
        writers.append(EventLog(log, run.events))
    if workers.main and track:
        writers.append(Tracker(out.stem, asdict(run.config), resume))
    if workers.main:
        say(command_line(run.config, begin, out, method, base, parent or ()))
    with Saves(run, beside, save_every, say) as saves:
        try:
            for event in saves.events():
                if workers.main:
                    record(writers, event)
        except DivergedError as error:
            for writer in writers:
                if isinstance(writer, EventLog):
                    writer.write("Diverged", {"update": run.update, "message": str(error)})
            if not run.update:
                raise InputError(f"{error}; nothing had been learned by then") from None
            if workers.main:
                say(f"{error}; the last finite weights are kept")
        finally:
            for writer in writers:
                writer.close()
        if workers.main:
            print(f"wrote {out}, SHA-256 {run.export(out, which=state)}")


finetune.__signature__ = spelled_out(
    finetune, {name: Annotated[known.entered, option(name, known)] for name, known in SETTINGS.items()}, "parent"
)


def taken(name: str, value: Any) -> Any:
    """The value of an option for the recipe. Raises InputError."""
    return tuple(whole_numbers(name.replace("_", "-"), value)) if SETTINGS[name].kind is tuple else value


def recipe(entry: Method, begin: Checkpoint, preset: str | None, values: dict, workers: Team) -> TuningConfig:
    """The recipe for a new run, the same in every process of a team. Raises InputError."""
    entry.check_settings(values)
    values = continued(begin) | values
    config = entry.config(**values)
    if preset is None:
        return config
    method = entry.tuning.method
    speed = measure_speed(begin, config, method, workers.device).shared(workers.size)
    config = preset_config(preset, begin, speed, method, **values)
    (config, *_) = workers.gather([config])
    if workers.main:
        say(f"about {estimate(begin, config, speed).seconds:.0f} s at this machine's speed")
    return config


def record(writers: list, event: Event) -> None:
    """Passes `event` on to those who asked for it."""
    for writer in writers:
        if isinstance(writer, EventLog):
            writer.write(type(event).__name__, asdict(event))
        elif isinstance(event, TuningStep):
            writer.write(event)
    report_progress(event)


def report_progress(event: Event) -> None:
    if isinstance(event, PoolStep):
        say(f"drawn: {event.done} of {event.total}, {event.seconds:.0f} s")
    elif isinstance(event, TuningStep) and event.validation_residual is not None:
        say(
            f"update {event.update}  loss {event.loss:.3f}  residual {event.validation_residual:.4g}  "
            f"forward-solve error {event.validation_solve_error:.3%}  anchor {event.anchor:.4f}  {event.seconds:.0f} s"
            + (f"  ({event.warning})" if event.warning else "")
        )
