"""What a fine-tuning run will take, and recipes that fit a given time on this machine."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..common.checks import InputError, shown
from ..common.text import duration, megabytes
from ..diffusion.network import SUFFIXES, UNet
from ..models.checkpoint import Checkpoint
from ..models.library import BUNDLED, Library
from ..training.config import TuningConfig, settings_of
from .registry import DEFAULT, find_method
from .speed import Speed

PRESETS = {"30s": 30.0, "2m": 120.0, "10m": 600.0}  # seconds
SHORT = ("30s", "2m")
SAMPLER = ("last_steps", "pool_steps")  # where the tuned steps begin: a tuned model has to go on there
MARGIN = 0.8  # of a preset's time that is planned for: machines are shared, and their speed varies
PAUSE = 0.6  # the longest that a run should work, in seconds, between two events


@dataclass(frozen=True)
class Estimate:
    """What a run will take: seconds in all, of them for the pool, for updates and for validations; bytes of
    memory beside the checkpoint; trainable parameters."""

    seconds: float
    pool_seconds: float
    update_seconds: float
    validation_seconds: float
    peak_bytes: int
    trainable_parameters: int


def trainable_parameters(base: Checkpoint) -> dict[str, int]:
    """How many parameters each suffix of the network has."""
    with torch.device("meta"):
        network = UNet(base.base_denoiser.config)
    return {name: sum(p.numel() for p in network.freeze(name)) for name in SUFFIXES}


def chunk_for(speed: Speed) -> int:
    """How many samples a run should work on between two events."""
    slowest = max(2 * speed.evaluation, speed.update, speed.validation)
    return next((n for n in (16, 8, 4, 2) if n * slowest <= PAUSE), 1)


def validations(config: TuningConfig) -> int:
    """How often a run validates: at the start, every so many updates, and at the end."""
    return 1 + -(-config.updates // config.validate_every)


def trajectory_seconds(base: Checkpoint, config: TuningConfig, speed: Speed) -> float:
    """For one trajectory of the frozen model."""
    schedule = base.info.schedule
    evaluations = sum(schedule.with_steps(n).evaluations(n) for n in config.pool_steps) / len(config.pool_steps)
    return evaluations * speed.evaluation


def estimate(base: Checkpoint, config: TuningConfig, speed: Speed) -> Estimate:
    """What a run of `config` takes at the measured speed."""
    trajectory = trajectory_seconds(base, config, speed)
    pool = config.validation * trajectory
    if config.learns_from_data:
        models = 2 if base.info.parent else 1
        pool += config.pool * speed.field + models * min(config.pool, config.calibrated) * speed.evaluation
    else:
        pool += config.pool * trajectory
    update = config.updates * config.batch * speed.update
    validation = validations(config) * config.validation * speed.validation
    trainable = trainable_parameters(base)[config.trainable]
    model = sum(x.nbytes for x in base.base_denoiser.state_dict().values())
    field = len(base.problem.channels) * base.info.resolution**2 * 4
    kept = 3 if config.last_steps > 1 else 2  # state, sample, and what the solver remembers
    in_pool = 2 if config.learns_from_data else kept + 1  # a field, or a state; for a while one more, as they come
    states = (config.pool * in_pool + config.validation * (kept + 1)) * field
    # Frozen, tuned and validated network; gradient, Adam's two moments, the start, the average and the best, and the
    # two copies that a diverging update is taken back with.
    peak = 3 * model + 8 * 4 * trainable + states + speed.graph_bytes * min(config.chunk, config.batch)
    return Estimate(pool + update + validation, pool, update, validation, round(peak), trainable)


def check_fits(estimate: Estimate, seconds_limit: float | None = None, memory_limit: float | None = None) -> None:
    """Raises InputError where a run would take more seconds, or more bytes, than it may."""
    if seconds_limit is not None and estimate.seconds > seconds_limit:
        raise InputError(
            f"this run would take about {duration(estimate.seconds)} here, and {duration(seconds_limit)} are allowed: "
            "choose fewer updates, a smaller batch or pool, a smaller K or fewer trainable layers"
        )
    if memory_limit is not None and estimate.peak_bytes > memory_limit:
        raise InputError(
            f"this run would take about {megabytes(estimate.peak_bytes)} of memory, and "
            f"{megabytes(memory_limit)} are allowed: choose a smaller batch or pool, a smaller K or fewer "
            "trainable layers"
        )


def preset(name: str, base: Checkpoint, speed: Speed, method: str = DEFAULT, **overrides) -> TuningConfig:
    """The recipe that makes the most of the named time at the measured speed; `overrides` are kept as they are.

    A third of the time at most goes to the pool and the rest to updates: under the symmetries of the equation a few
    dozen states last for a hundred updates, but they must come from trajectories of the step count that is sampled
    later. Of solver fields there are no more than the updates can use four times each, in other noise and under other
    symmetries."""
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"unknown preset {shown(name)}: choose one of {', '.join(PRESETS)}")
    seconds, kind = MARGIN * PRESETS[name], find_method(method).config
    chosen: dict[str, Any] = {"chunk": chunk_for(speed)}
    chosen |= {"batch": next((n for n in (16, 8) if n * speed.update <= PAUSE), 4), "warmup": 10}
    chosen |= kind.for_short_runs(base, overrides) if name in SHORT else {}
    chosen |= continued(base) | {"updates": 1, "validate_every": 1} | overrides
    one = kind(**chosen | {"pool": 64, "validation": 64})
    trajectory, checks = trajectory_seconds(base, one, speed), {"30s": 3, "2m": 6, "10m": 12}[name]
    held_out = trajectory + (checks + 1) * speed.validation  # seconds for one trajectory of the validation
    validation = overrides.get("validation") or min(32, max(4, int(0.12 * seconds / held_out)))
    left = seconds - validation * held_out
    drawn = speed.field if kind.learns_from_data else trajectory
    most = min(2048, int(left / speed.update / 4)) if kind.learns_from_data else 512
    pool = overrides.get("pool") or max(8, min(most, int(0.35 * left / max(drawn, 1e-9))))
    updates = overrides.get("updates") or max(5, int((left - pool * drawn) / (chosen["batch"] * speed.update)))
    # The average reaches back over the last twentieth or so; for very few updates over more, for it must smooth.
    fitted: dict[str, Any] = {
        "pool": pool,
        "validation": validation,
        "updates": updates,
        "validate_every": -(-updates // checks),
    }
    fitted |= {"ema": min(0.99, max(0.8, round(1 - 5 / updates, 4)))}
    return kind(**chosen | fitted | overrides)


def continued(base: Checkpoint) -> dict:
    """Of the recipe that a tuned checkpoint came from, what a run that goes on from it must keep."""
    found = base.info.recipe.get("config") if base.info.parent else None
    found = found if isinstance(found, dict) else {}
    values = {name: found[name] for name in SAMPLER if name in found}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def command_line(
    config: TuningConfig,
    base: Checkpoint,
    out: str,
    method: str = DEFAULT,
    begin: str | None = None,
    parents: Iterable[Path] = (),
) -> str:
    """The command that repeats a run elsewhere. `begin` is the file of a checkpoint that is not bundled, `parents` are
    the files in which what it continues may be."""
    entries = {entry["sha256"]: entry["method"] for entry in Library(BUNDLED).manifest()}
    begin = begin or entries.get(base.sha256) or f"{base.info.title}.safetensors"
    words = ["python", "-m", "pirf_app", "finetune", "--pde", base.info.pde, "--method", method]
    words += [] if begin == "base" else ["--from", begin]
    words += [word for path in parents for word in ("--parent", str(path))]
    for name, known in settings_of(type(config)).items():
        value = getattr(config, name)
        if value != getattr(type(config), name) or name == "seed":
            words += ["--" + name.replace("_", "-"), known.written(value)]
    return shlex.join([*words, "--out", str(out)])
