"""Several models on one benchmark from the same noise, side by side: what the page, the API and the first view show."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..common.checks import MAX_RESOLUTION, MAX_SEED, InputError, optional_number, shown, whole_number
from ..diffusion.sampler import LEAST_STEPS, SampleStep, Schedule, initial_noise, together
from ..models.checkpoint import Checkpoint
from ..models.library import USUAL, AnyLibrary, grid, grids
from ..pdes import PDE, get_pde
from .figures import (
    PRECISION,
    boundary_rounding,
    by_sample,
    check_comparable,
    conservation_rate,
    places,
    residual_rms,
)
from .statistics import FLOOR_SEED, amplitude_range
from .verdicts import method_title, verdicts, warnings

STEPS_RANGE, SAMPLES_RANGE = (LEAST_STEPS, 80), (1, 8)
SWEEP_STEPS, MAX_SWEEP = (5, 10, 20, 40), 8
FLOOR_SAMPLES = 8


@dataclass(frozen=True)
class Settings:
    """A request that passed `check_settings`; None in the schedule means the checkpoint's own value, and for the
    resolution that of `grid`."""

    pde: str
    methods: tuple[str, ...]
    steps: int
    n: int
    seed: int
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float | None = None
    resolution: int | None = None

    def schedule(self, own: Schedule) -> Schedule:
        changes = {k: getattr(self, k) for k in ("sigma_min", "sigma_max", "rho") if getattr(self, k) is not None}
        return replace(own, steps=self.steps, **changes)


@dataclass(frozen=True)
class Preview:
    """One sampler step of one method: the denoised estimate `fields [n, c, h, w]` in physical units, float32; and the
    numbers in its equation that are not the default ones."""

    method: str
    step: int
    steps: int
    nfe: int
    sigma: float
    fields: np.ndarray
    parameters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodResult:
    """What one method generated: `fields [n, c, h, w]`, `residual [n, h, w]`, `solution [n, c, h, w]` (physical units,
    float32), figures per sample, and one row that sums them up."""

    method: str
    fields: np.ndarray
    residual: np.ndarray
    solution: np.ndarray
    samples: dict[str, list[float]]
    row: dict


@dataclass(frozen=True)
class Comparison:
    """The result: methods in order, the first of them the one that ratios refer to."""

    settings: Settings
    results: tuple[MethodResult, ...]
    floors: dict
    notes: tuple[str, ...]

    @property
    def benchmark(self) -> PDE:
        """What the fields should solve."""
        return get_pde(self.settings.pde, self.results[0].row.get("parameters", {}))

    @property
    def verdicts(self) -> list[str]:
        """What the figures say: a sentence for every method but the first, or one for a method alone."""
        return verdicts([result.row for result in self.results], self.floors)

    @property
    def sentence(self) -> str:
        return " ".join(self.verdicts)

    def to_dict(self) -> dict:
        """Everything but the fields, ready for JSON."""
        rows = [r.row | {"samples": r.samples} for r in self.results]
        settings = asdict(self.settings) | {"methods": list(self.settings.methods)}
        return {
            "rows": rows,
            "floors": self.floors,
            "sentence": self.sentence,
            "notes": list(self.notes),
            "settings": settings,
        }


def available(library: AnyLibrary, pde: str, resolution: int | None = None) -> list[str]:
    """Methods that have a checkpoint for `pde` on the `grid`, the usual ones first."""
    return library.methods(pde, grid(library, pde, resolution))


def usual(methods: Sequence[str]) -> list[str]:
    """Those of `methods` that are compared unless told otherwise."""
    return [m for m in methods if m in USUAL] or list(methods)


def check_settings(
    library: AnyLibrary,
    pde: str,
    methods: list[str],
    steps: int,
    n: int,
    seed: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
    resolution: int | None = None,
) -> Settings:
    """The request, checked and put in order (methods as the library lists them). Raises InputError."""
    get_pde(pde)
    if not isinstance(methods, list | tuple) or not all(isinstance(m, str) for m in methods):
        raise InputError(f"methods must be a list of names, not {shown(methods)}")
    if resolution is not None:
        resolution = whole_number("resolution", resolution, 8, MAX_RESOLUTION)
    known = available(library, pde, resolution)
    for method in methods:
        if method not in known:
            names = ", ".join(known) or "none yet"
            size = grid(library, pde, resolution)
            others = [f"{n}x{n}" for n in grids(library, pde) if method in library.methods(pde, n)]
            there = f" (there is at {', '.join(others)})" if others else ""
            raise InputError(
                f"there is no {shown(method)} checkpoint for {pde} at {size}x{size}{there}: available are {names}"
            )
    if not methods:
        raise InputError("choose at least one method")
    return Settings(
        pde,
        tuple(m for m in known if m in methods),
        whole_number("steps", steps, *STEPS_RANGE),
        whole_number("n (the number of samples)", n, *SAMPLES_RANGE),
        whole_number("seed", seed, 0, MAX_SEED, text=True),
        optional_number("sigma_min", sigma_min),
        optional_number("sigma_max", sigma_max),
        optional_number("rho", rho),
        resolution,
    )


def check_sweep(
    library: AnyLibrary, pde: str, methods: list[str], steps: Sequence[int], n: int, seed: int, **schedule
) -> list[Settings]:
    """`check_settings` for one request at several step counts, in ascending order. Raises InputError."""
    if not 1 <= len(steps) <= MAX_SWEEP:
        raise InputError(f"a sweep takes 1 to {MAX_SWEEP} step counts, not {len(steps)}")
    found = [check_settings(library, pde, methods, count, n, seed, **schedule) for count in steps]
    return sorted(set(found), key=lambda settings: settings.steps)


def compare(library: AnyLibrary, pde: str, methods: list[str], steps: int, n: int, seed: int, **schedule):
    """Checks the request, then returns an iterator over a `Preview` per sampler step (methods in turn) and, last, the
    `Comparison`. `schedule` may override sigma_min, sigma_max and rho, and ask for a resolution. Raises InputError or
    CheckpointError."""
    return run(library, check_settings(library, pde, methods, steps, n, seed, **schedule))


def last(events: Iterator) -> Comparison:
    """The result of `compare` without the previews."""
    for event in events:
        result = event
    return result


def run(library: AnyLibrary, settings: Settings) -> Iterator[Preview | Comparison]:
    """`compare` for checked settings: loads the models, checks the noise schedule with theirs, returns the iterator."""
    return sample_all(settings, *models(library, settings))


def models(library: AnyLibrary, settings: Settings) -> tuple[list[Checkpoint], list[Schedule]]:
    """The models that `settings` name, and the noise schedule of each. Raises InputError."""
    resolution = grid(library, settings.pde, settings.resolution)
    checkpoints = [library.load(settings.pde, method, resolution) for method in settings.methods]
    check_comparable([checkpoint.info for checkpoint in checkpoints])
    return checkpoints, [settings.schedule(checkpoint.info.schedule) for checkpoint in checkpoints]


def sample_all(
    settings: Settings, checkpoints: list[Checkpoint], schedules: list[Schedule]
) -> Iterator[Preview | Comparison]:
    problems = [checkpoint.problem for checkpoint in checkpoints]
    resolution = checkpoints[0].info.resolution
    device = next(checkpoints[0].denoiser.parameters()).device
    noise = initial_noise(settings.n, (len(problems[0].channels), resolution, resolution), settings.seed).to(device)
    for checkpoint in checkpoints:
        checkpoint.denoiser.autocast = False  # the same digits here as everywhere else
    groups = places(schedules)
    samplers = {
        schedule: together([checkpoints[i].denoiser for i in members], noise, schedule)
        for schedule, members in groups.items()
    }
    states: list[SampleStep | None] = [None] * len(checkpoints)
    for _ in range(settings.steps):
        for schedule, members in groups.items():
            with torch.no_grad():  # not around the yield: a server may resume this generator on another thread
                steps = next(samplers[schedule])
            for i, step in zip(members, steps, strict=True):
                states[i] = step
                fields = problems[i].denormalise(step.denoised.cpu()).numpy()
                parameters = checkpoints[i].info.parameters
                yield Preview(settings.methods[i], step.step, step.steps, step.nfe, step.sigma, fields, parameters)
    for sampler in samplers.values():
        sampler.close()
    results = []
    for i, checkpoint in enumerate(checkpoints):
        fields = problems[i].denormalise(states[i].x.cpu())
        results.append(measure(checkpoint, fields, settings, states[i].nfe, states[i].seconds))
    yield conclude(settings, results, data_floors(settings.pde, resolution, problems[0].own_parameters))


def measure(checkpoint: Checkpoint, fields: Tensor, settings: Settings, nfe: int, seconds: float) -> MethodResult:
    """Residual, solver's solution and figures of `fields`. Raises InputError if the sampler overflowed."""
    pde, method = checkpoint.info.benchmark, checkpoint.info.method
    overflow = InputError(f"{method_title(method)} overflowed with these noise levels: choose a narrower schedule")
    if not fields.isfinite().all():
        raise overflow
    solution = pde.solve(fields)
    samples = by_sample(pde, fields, solution)
    if not all(values.isfinite().all() for values in samples.values()):
        raise overflow
    row = checkpoint.info.label | {
        "steps": settings.steps,
        "nfe": nfe,
        "n": settings.n,
        "seconds": round(seconds, 3),
        "precision": PRECISION,
        "residual_rms": samples["residual_rms"].square().mean().sqrt().item(),
        "residual_median": samples["residual_rms"].quantile(0.5).item(),
        "boundary_rms": samples["boundary_rms"].square().mean().sqrt().item(),
        "solve_error_median": samples["solve_error"].quantile(0.5).item(),
        "conservation_rate": conservation_rate(samples["balance"]) if "balance" in samples else None,
        "amplitude": [fields[:, i].std().item() / c.std for i, c in enumerate(pde.channels)],
        "reinterpreted": pde.reinterpreted(fields).mean().item(),
    }
    arrays = [x.float().numpy() for x in (fields, pde.residual(fields), solution)]
    return MethodResult(method, *arrays, {k: v.tolist() for k, v in samples.items()}, row)


@lru_cache(maxsize=16)
def data_floors(pde_name: str, resolution: int, parameters: tuple[tuple[str, float], ...] = ()) -> dict:
    """What held-out solver data scores: no model can be expected to do better; and what its amplitudes are.
    `parameters` as `PDE.own_parameters`."""
    pde = get_pde(pde_name, parameters)
    fields = pde.generate(FLOOR_SAMPLES, resolution, FLOOR_SEED)
    return {
        "residual_rms": residual_rms(pde, fields).square().mean().sqrt().item(),
        "boundary_rms": pde.boundary_violation(fields).square().mean().sqrt().item(),
        "solve_error_median": pde.solve_error(fields).quantile(0.5).item(),
        "boundary_rounding": boundary_rounding(pde),
        "amplitude_range": amplitude_range(pde, resolution),
    }


def conclude(settings: Settings, results: list[MethodResult], floors: dict) -> Comparison:
    """Ratios to the first method, and notes on gains that are not what they seem."""
    first = results[0].row
    for result in results:
        for ratio, key in (("residual_ratio", "residual_rms"), ("solve_error_ratio", "solve_error_median")):
            result.row[ratio] = result.row[key] / max(first[key], 1e-30)
    rows = [r.row for r in results]
    notes = tuple(note for row in rows for note in warnings(get_pde(settings.pde), row, first, floors))
    return Comparison(settings, tuple(results), floors, notes)
