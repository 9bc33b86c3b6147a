"""A resolution tier for one benchmark in a stated number of minutes: data, pre-training, fine-tuning, evaluation.

Meant for a machine with a GPU and no network. Every stage can be killed and goes on from what it kept in the run's
folder; what it makes are `{pde}-{resolution}-base` and `-pirf` checkpoints, a report and their manifest entries.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..common.checks import InputError
from ..common.files import write_json
from ..common.parallel import alone_on
from ..diffusion.network import NetworkConfig
from ..evaluation import statistics
from ..evaluation.figures import environment, evaluate, flags, floors
from ..hub.cards import write_cards
from ..methods.pirf import PirfConfig, PirfTuning
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.library import Library
from ..pdes import get_pde
from ..training.events import DivergedError, PoolStep
from ..training.pretraining import PretrainConfig, Pretraining
from ..training.run_state import Saves
from .data import PART, DataFile, write_statistics
from .plan import (
    ASSUMED_FLOPS,
    EVALUATED_STEPS,
    POOL_STEPS,
    SHARES,
    Options,
    Plan,
    Rates,
    make_plan,
    solver_rates,
    training_flops,
)

STAGES = tuple(SHARES)
NOISE = ("noise_mean", "noise_std", "sigma_min", "sigma_max", "rho")
log = logging.getLogger(__name__)
SAVE_EVERY, SAVES = 60.0, 20  # seconds between saves of a run's state; how many there are at least in a tier's minutes


@dataclass(frozen=True)
class TierStep:
    """Where a tier stands: the stage, how much of it is done, seconds since the start (those before a kill counted in),
    and the latest figure in words."""

    stage: str
    done: int
    total: int
    seconds: float
    note: str = ""


def has(device: str) -> bool:
    return torch.device(device).type == "cpu" or torch.cuda.is_available()


def measure(options: Options, compiled: bool = False) -> Rates:
    """Rates of this machine; those of a GPU that it does not have are assumed."""
    pde = get_pde(options.pde)
    part, solve = solver_rates(pde, options.resolution)
    plan = make_plan(pde, options, Rates(part, solve, ASSUMED_FLOPS, False))
    if not has(options.device):
        return Rates(part, solve, ASSUMED_FLOPS, False)
    batch = plan.batch if torch.device(options.device).type == "cuda" else 8
    return Rates(part, solve, training_flops(pde, plan.network, batch, options.device, compiled))


def noise_levels(pde: str) -> dict[str, float]:
    """What the bundled baseline was trained on and recommends for sampling; {} where there is none."""
    try:
        info = Library().load(pde, "base").info
    except InputError:
        return {}
    found = info.recipe.get("config", {}) | info.sampler
    return {name: found[name] for name in NOISE if found.get(name) is not None}


class Tier:
    """A run in `folder`, which writes its checkpoints to `out`. Iterate `run()`; with `resume` it goes on from what
    the folder holds, with the options that it was begun with. Raises InputError for a folder of another run, and where
    the device is missing."""

    def __init__(self, options: Options, out: Path, folder: Path, resume: bool = False):
        self.out, self.folder, self.note = out, folder, folder / "tier.json"
        self.begun, self.before, self.done = time.monotonic(), 0.0, []
        self.options, self.plan = options, None
        self.pde = get_pde(options.pde)
        if resume and self.note.exists():
            self._read()
        if not has(self.options.device):
            raise InputError("there is no CUDA device here: choose --device cpu, or --dry-run to see what it would do")

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.begun

    @property
    def save_every(self) -> float:
        return min(SAVE_EVERY, 60 * self.options.minutes / SAVES)

    def path(self, method: str) -> Path:
        return self.out / f"{self.options.pde}-{self.options.resolution}-{method}.safetensors"

    def _read(self) -> None:
        try:
            kept = json.loads(self.note.read_text())
            begun = Options(**kept["options"])
            self.before, self.done = float(kept["seconds"]), list(kept["done"])
            self.plan = kept["plan"] and Plan(
                **kept["plan"] | {"network": NetworkConfig.from_dict(kept["plan"]["network"])}
            )
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.note} cannot be read: begin again without --resume") from None
        if (begun.pde, begun.resolution) != (self.options.pde, self.options.resolution):
            raise InputError(f"{self.folder} is a run on {begun.pde} at {begun.resolution}x{begun.resolution}")
        self.options = replace(begun, device=self.options.device, workers=self.options.workers)

    def _write(self) -> None:
        plan = self.plan and asdict(self.plan) | {"network": self.plan.network.to_dict()}
        kept = {"options": asdict(self.options), "plan": plan, "seconds": self.seconds, "done": self.done}
        write_json(self.note, kept)

    def over(self, stage: str) -> bool:
        """Whether the minutes up to the end of `stage` are spent."""
        shares = [SHARES[name] for name in STAGES[: STAGES.index(stage) + 1]]
        return self.seconds > 60 * self.options.minutes * sum(shares)

    def run(self) -> Iterator[TierStep]:
        """Yields as the stages go on; the last step is that of a finished evaluation."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if self.plan is None:
            compiled = torch.device(self.options.device).type == "cuda"
            self.plan = make_plan(self.pde, self.options, measure(self.options, compiled))
            for state in self.folder.glob("*.state"):
                state.unlink()
        self._write()
        o = self.options
        self.data = DataFile(self.folder / "data.npy", self.pde, o.resolution, o.seed, self.plan.parts)
        for stage in STAGES:
            if stage not in self.done:
                for done, total, note in getattr(self, f"_{stage}")():
                    yield TierStep(stage, done, total, self.seconds, note)
                self.done.append(stage)
                self._write()
        yield TierStep(STAGES[-1], 1, 1, self.seconds, f"wrote {self.path('base')} and {self.path('pirf')}")

    def _data(self) -> Iterator[tuple[int, int, str]]:
        o, total = self.options, self.plan.parts * PART
        path = statistics.reference_path(o.pde, o.resolution)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_statistics(path, self.pde, o.resolution, self.plan.reference_parts, o.workers)
            statistics.reference.cache_clear()
        for parts in self.data.fill(o.workers):
            self._write()
            yield parts * PART, total, ""
            if self.over("data") and parts >= min(4, self.plan.parts):
                break

    def _pretrain(self) -> Iterator[tuple[int, int, str]]:
        o, plan, state = self.options, self.plan, self.folder / "pretrain.state"
        pool = self.data.load().to(o.device)
        if state.exists():
            run = Pretraining.load(self.pde, state, alone_on(o.device), pool)
        else:
            config = PretrainConfig(
                samples=plan.samples,
                batch=plan.batch,
                learning_rate=2e-3 if plan.batch > 32 else 1e-3,
                warmup_samples=max(1, plan.samples // 50),
                ema_samples=max(3000.0, plan.samples / 30),
                prior_box=plan.prior_box,
                seed=o.seed,
                **noise_levels(o.pde),
            )
            run = Pretraining(self.pde, plan.network, config, alone_on(o.device), pool)
        if torch.device(o.device).type == "cuda":
            run.model.network.compile()
        losses, reported = [], -math.inf
        with Saves(run, state, self.save_every, log.warning) as saves:
            for step in saves.events():
                losses.append(step.loss)
                if step.seconds - reported > 2 or step.samples >= plan.samples:
                    self._write()
                    yield step.samples, plan.samples, f"loss {sum(losses) / len(losses):.4f}"
                    losses, reported = [], step.seconds
                if self.over("pretrain"):
                    break
            run.export(self.path("base"))

    def _base(self) -> Checkpoint:
        return load_checkpoint(self.path("base"), lambda sha256: None)

    def _tune(self) -> Iterator[tuple[int, int, str]]:
        o, plan, state, base = self.options, self.plan, self.folder / "tune.state", self._base()
        config = PirfConfig(
            updates=plan.updates,
            pool=plan.pool,
            pool_steps=(POOL_STEPS,),
            batch=plan.tuning_batch,
            validation=plan.validation,
            validate_every=max(1, plan.updates // 5),
            warmup=max(1, min(20, plan.updates // 4)),
            seed=o.seed,
        )
        workers = alone_on(o.device)
        run = PirfTuning.load(base, state, workers) if state.exists() else PirfTuning(base, config, workers)
        total = plan.pool + plan.validation + plan.updates
        with Saves(run, state, self.save_every, log.warning) as saves:
            try:
                for event in saves.events():
                    if isinstance(event, PoolStep):
                        yield event.done, total, "drawing trajectories"
                    elif getattr(event, "validation_residual", None) is not None:
                        error = f"residual {event.validation_residual:.4g}, error {event.validation_solve_error:.2%}"
                        yield plan.pool + plan.validation + event.update, total, error
                    self._write()
                    if self.over("tune") and run.update:
                        break
            except DivergedError as error:
                yield plan.pool + plan.validation + run.update, total, f"{error}; the last finite weights are kept"
            run.export(self.path("pirf"))

    @torch.no_grad()
    def _evaluate(self) -> Iterator[tuple[int, int, str]]:
        o, plan, base = self.options, self.plan, self._base()
        pair = [base, load_checkpoint(self.path("pirf"), lambda sha256: base)]
        for checkpoint in pair:
            checkpoint.denoiser.to(o.device)
        rows, levels = [], {o.pde: floors(o.pde, o.resolution, plan.evaluated)}
        for i, steps in enumerate(EVALUATED_STEPS):
            found = evaluate(pair, steps, plan.evaluated, seeds=[0])
            for row in found:
                row["flags"] = flags(row, found[0], levels[o.pde])
            rows += found
            yield i + 1, len(EVALUATED_STEPS), f"{steps} steps: residual {found[-1]['residual_rms']:.4g}"
        rows.sort(key=lambda row: (row["method"], row["steps"]))
        conditions = environment(torch.device(o.device)) | {"seeds": [0]}
        write_json(self.folder / "report.json", {"rows": rows, "floors": levels, "environment": conditions})
        write_cards(Library(self.out), rows)
