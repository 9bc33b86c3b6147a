"""Which fine-tuning methods there are, what a run will take, and recipes that fit a given time on this machine."""

import shlex
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..diffusion.network import SUFFIXES, UNet
from ..diffusion.sampler import initial_noise, start
from ..library import BUNDLED, Library
from ..parallel import alone_on
from ..pdes import InputError
from ..pdes.base import shown
from ..sizes import megabytes
from ..wording import duration
from .config import TuningConfig
from .events import DivergedError
from .loop import TuningLoop
from .pidm import CALIBRATED, PART, PidmTuning
from .pirf import PirfTuning


@dataclass(frozen=True)
class Method:
    """A fine-tuning method: how it is named, what it does in a few words, and its run."""

    title: str
    does: str
    tuning: type[TuningLoop]
    rewarded: bool = False  # minus its loss is called a reward

    @property
    def config(self) -> type[TuningConfig]:
        """The class of its recipe."""
        return self.tuning.config_class

    @property
    def settings(self) -> list[str]:
        """What a recipe may say."""
        return [known.name for known in fields(self.config)]

    def check_settings(self, names: Iterable[str]) -> None:
        """Raises InputError, naming one of `names` that a recipe of this method may not say."""
        unknown = sorted(set(names) - set(self.settings))
        if unknown:
            raise InputError(f"{self.title} has no setting {unknown[0].replace('_', '-')!r}")


METHODS = {
    method.tuning.method: method
    for method in (
        Method("PIRF", "with the physics reward on its samples (PIRF, arXiv 2509.20570)", PirfTuning, True),
        Method("PIDM", "on solver data with the residual in its loss (PIDM, arXiv 2403.14404)", PidmTuning),
    )
}
SETTINGS = {name for method in METHODS.values() for name in method.settings}  # of any of them
PRESETS = {"30s": 30.0, "2m": 120.0, "10m": 600.0}  # seconds
SHORT = ("30s", "2m")
# For those on equations whose second norm is that of a mean operator: a few hundred samples do not say which way the
# error of the solution should go (on Darcy flow the gradients of single batches have 5 % in common), so it is held
# where the baseline has it.
HELD = {"error_weight": 0.5, "hold": 3.0}
MARGIN = 0.8  # of a preset's time that is planned for: machines are shared, and their speed varies
LONG = 0.6  # seconds for each thing that is timed
PAUSE = 0.6  # the longest that a run should work, in seconds, between two events
HELD_STEPS = 8  # that the graph of a measured update goes through, of all its samples together


def find_method(name: str) -> Method:
    """The method called `name`. Raises InputError, naming those there are."""
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"unknown fine-tuning method {shown(name)}: choose {', '.join(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class Speed:
    """Seconds a sample on this machine: one network evaluation, one update, one validation, one field of the solver;
    and bytes a sample of the graph that an update keeps for its backward pass. For the recipe's trainable layers and
    last steps only."""

    evaluation: float
    update: float
    validation: float
    graph_bytes: float
    field: float = 0.0

    def shared(self, processes: int) -> "Speed":
        """The speed of so many processes together."""
        seconds = ("evaluation", "update", "validation", "field")
        return replace(self, **{name: getattr(self, name) / processes for name in seconds})


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


class _GraphBytes(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the memory of what a graph keeps, the weights apart."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.seen = {p.untyped_storage().data_ptr() for p in parameters}
        self.total = 0
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return x


@torch.no_grad()
def evaluated(model: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    """One evaluation, on the CPU: a GPU is done only then."""
    return model(x, sigma).cpu()


def _quickest(work: Callable[[], Iterable]) -> Generator[None, None, float]:
    """Seconds that all of `work()` takes: the least of three, for what else the machine does comes in bursts; of fewer
    where that takes long. Yields in between."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < LONG:
        began = time.perf_counter()
        for _ in work():
            pass
        taken.append(time.perf_counter() - began)
        yield
    return min(taken)


def measure_speed(
    base: Checkpoint, config: TuningConfig, method: str = "pirf", device: str | torch.device = "cpu"
) -> Speed:
    """Times a few samples of `config`'s work on `device`, on states of noise: two or three seconds."""
    (speed,) = deque(measuring(base, config, method, device), 1)
    return speed


def measuring(
    base: Checkpoint, config: TuningConfig, method: str = "pirf", device: str | torch.device = "cpu"
) -> Iterator[Speed | None]:
    """`measure_speed` in pieces of a second or so, for those who share a machine: None after each of them, and last
    what was found. No more steps of samples are held at once than a run with a small K holds of a few samples."""
    n = max(1, min(4, config.chunk, config.batch, HELD_STEPS // config.last_steps))
    few = replace(config, batch=n, validation=n, pool=max(n, len(config.pool_steps)))
    # At a rate with which nothing can diverge.
    run = find_method(method).tuning(base, replace(few, learning_rate=1e-8), alone_on(device))
    yield
    shape = (len(run.pde.channels), base.info.resolution, base.info.resolution)
    sigma = torch.tensor(run.model.handover)
    x = start(run.model.base, initial_noise(n, shape, 0).to(device), sigma).x
    with torch.no_grad():
        sample = run.model.base(x, sigma)
    memory = torch.zeros_like(x) if config.last_steps > 1 else None
    run.validation.add(config.pool_steps[0], x=x, sample=sample, memory=memory)
    for steps in config.pool_steps:
        run.stand_in(steps, x, sample)
    graph = _GraphBytes([*run.model.parameters()])
    try:
        evaluation = yield from _quickest(lambda: evaluated(run.model.base, x, sigma))
        yield from (None for _ in run.calibrate())
        with graph:
            deque(run.one_update(), 0)
        yield
        update = yield from _quickest(run.one_update)
        validation = yield from _quickest(run.validate)
    except DivergedError:
        raise InputError("the model that the run would start from gives values that are not finite") from None
    data = 0.0
    if config.learns_from_data:
        data = yield from _quickest(lambda: run.pde.generate(PART, base.info.resolution, 0))
    yield Speed(evaluation / n, update / n, validation / n, graph.total / n, data / PART)


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
        pool += config.pool * speed.field + models * min(config.pool, CALIBRATED) * speed.evaluation
    else:
        pool += config.pool * trajectory
    update = config.updates * config.batch * speed.update
    validation = validations(config) * config.validation * speed.validation
    trainable = trainable_parameters(base)[config.trainable]
    model = sum(x.nbytes for x in base.base_denoiser.state_dict().values())
    field = len(base.info.normalisation["mean"]) * base.info.resolution**2 * 4
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


def preset(name: str, base: Checkpoint, speed: Speed, method: str = "pirf", **overrides) -> TuningConfig:
    """The recipe that makes the most of the named time at the measured speed; `overrides` are kept as they are.

    A third of the time at most goes to the pool and the rest to updates: under the symmetries of the equation a few
    dozen states last for a hundred updates, but they must come from trajectories of the step count that is sampled
    later. Of solver fields there are no more than the updates can use four times each, in other noise and under other
    symmetries."""
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"unknown preset {shown(name)}: choose one of {', '.join(PRESETS)}")
    seconds, kind = MARGIN * PRESETS[name], find_method(method).config
    chosen = {"chunk": chunk_for(speed)}
    chosen |= {"batch": next((n for n in (16, 8) if n * speed.update <= PAUSE), 4), "warmup": 10}
    chosen |= {"learning_rate": kind.short_rate if name in SHORT else kind.learning_rate}
    held = base.problem.mean_operator and base.info.parent is None and overrides.get("norm") != "plain"
    chosen |= HELD if name in SHORT and held and hasattr(kind, "hold") else {}
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
    fitted = {"pool": pool, "validation": validation, "updates": updates, "validate_every": -(-updates // checks)}
    fitted |= {"ema": min(0.99, max(0.8, 1 - 5 / updates))}
    return kind(**chosen | fitted | overrides)


def continued(base: Checkpoint) -> dict:
    """Of the recipe that a tuned checkpoint came from, what a run that goes on from it must keep."""
    found = base.info.recipe.get("config") if base.info.parent else None
    found = found if isinstance(found, dict) else {}
    values = {name: found[name] for name in ("last_steps", "pool_steps") if name in found}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def command_line(
    config: TuningConfig, base: Checkpoint, out: str, method: str = "pirf", begin: str | None = None
) -> str:
    """The command that repeats a run elsewhere. `begin` is the file of a checkpoint that is not bundled."""
    entries = {entry["sha256"]: entry["method"] for entry in Library(BUNDLED).manifest()}
    begin = begin or entries.get(base.sha256) or f"{base.info.title}.safetensors"
    words = ["python", "-m", "pirf_app", "finetune", "--pde", base.info.pde, "--method", method]
    words += [] if begin == "base" else ["--from", begin]
    for known in fields(config):
        value = getattr(config, known.name)
        if value != known.default or known.name == "seed":
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += ["--" + known.name.replace("_", "-"), text]
    return shlex.join([*words, "--out", str(out)])
