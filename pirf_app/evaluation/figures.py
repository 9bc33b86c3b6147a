"""From fields to figures: what the reward sees (residual) and what it never saw (conservation, distribution)."""

import platform
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.checks import InputError
from ..common.parallel import ALONE, Team, device_name
from ..diffusion.sampler import initial_noise, together
from ..models.checkpoint import Checkpoint, CheckpointInfo
from ..pdes import PDE, get_pde
from ..pdes.stencils import rms
from .statistics import (
    FLOOR_SEED,
    amplitude_range,
    pairwise_distance,
    power_spectrum,
    projected,
    reference,
    sliced_wasserstein,
    spectrum_deviation,
    spectrum_error,
)

PRECISION = "float32"  # of all that is computed, unless `evaluate` is asked for less
CLOSED = 0.05  # violation of a conservation law that counts as none
ROUNDING = 1e-5  # of a solution's deviation: what is below comes from float32
THINNEST, WIDEST = 0.4, 1.3  # times the least and the greatest amplitude of a field of data: what is beyond is none
SAME = 0.02  # ratios this close to 1 are called equal
LOST = 0.95  # ratio of diversities below which some was lost


def residual_rms(pde: PDE, fields: Tensor) -> Tensor:
    """Per-sample RMS `[n]` of the residual where the equation holds."""
    return rms(pde.interior(pde.residual(fields)))


def by_sample(pde: PDE, fields: Tensor, solution: Tensor) -> dict[str, Tensor]:
    """What is told of every single one of `fields`, `[n]` each; `solution` is the solver's answer to their inputs."""
    found = {
        "residual_rms": residual_rms(pde, fields),
        "solve_error": pde.solve_error(fields, solution),
        "boundary_rms": pde.boundary_violation(fields),
    }
    return found | ({"balance": pde.balance(fields)} if pde.offers("balance") else {})


def conservation_rate(balance: Tensor) -> float:
    """The share of samples whose conservation law closes."""
    return (balance <= CLOSED).float().mean().item()


def figures(pde: PDE, fields: Tensor, against: int | None = None) -> dict:
    """Every figure of a report row that depends on the fields alone `[n, c, N, N]` (physical units, float32); `against`
    is how many fields `reference` takes where none are kept.

    One sample has no diversity, and some benchmarks have no conservation law or paper's residual: None."""
    known = reference(pde.name, fields.shape[-1], pde.own_parameters, against)
    spectrum = power_spectrum(pde, fields)
    paper = pde.paper_residual(fields) if pde.offers("paper_residual") else None
    return deciding(pde, fields) | {
        "second_residual_rms": rms(pde.interior(pde.second_residual(fields))).square().mean().sqrt().item(),
        "boundary_rms": pde.boundary_violation(fields).square().mean().sqrt().item(),
        "solve_error_p90": pde.solve_error(fields).quantile(0.9).item(),
        "amplitude": (fields.double().std((0, 2, 3)) / torch.from_numpy(known.std)).tolist(),
        "diversity": pairwise_distance(pde, fields) / known.distance if len(fields) > 1 else None,
        "conservation_rate": conservation_rate(pde.balance(fields)) if pde.offers("balance") else None,
        "spectrum_error": spectrum_error(spectrum, known.spectrum),
        "spectrum_deviation": spectrum_deviation(spectrum, known.spectrum),
        "sliced_wasserstein": sliced_wasserstein(projected(fields, known.std), known.quantiles),
        "reinterpreted": pde.reinterpreted(fields).mean().item(),
        "paper_mse": None if paper is None else paper.square().mean().item(),
        "paper_mae": None if paper is None else paper.abs().mean().item(),
    }


def check_comparable(infos: Sequence[CheckpointInfo]) -> None:
    """Raises InputError unless checkpoints of a PDE have the same numbers in their equation: what is a solution of one
    is none of the other."""
    first, *others = [(info, info.benchmark.parameters(info.resolution)) for info in infos]
    for info, parameters in others:
        if parameters != first[1]:
            named = [f"{i.method} has {i.benchmark.in_words(p)}" for i, p in (first, (info, parameters))]
            raise InputError(f"models of different equations cannot be compared: {named[0]}, {named[1]}")


def floors(
    pde_name: str,
    resolution: int,
    n: int,
    parameters: Mapping[str, float] | tuple = (),
    against: int | None = None,
) -> dict:
    """The same figures for held-out solver data: what a perfect model would score."""
    pde = get_pde(pde_name, parameters)
    found = figures(pde, pde.generate(n, resolution, FLOOR_SEED), against)
    return found | {"amplitude_range": amplitude_range(pde, resolution)}


def boundary_rounding(pde: PDE) -> float:
    """The boundary violation below which there is none but rounding."""
    return ROUNDING * pde.channels[pde.solution_channels[0]].std


def unconverged(row: dict, floor: dict) -> str | None:
    """How the fields of a row are none that the data could have, by the channel whose amplitude is furthest off; None
    for a row of fields that could."""
    if "amplitude_range" not in floor:
        return None
    found = []
    for channel, amplitude, (least, greatest) in zip(
        get_pde(row["pde"]).channels, row["amplitude"], floor["amplitude_range"], strict=True
    ):
        if not THINNEST * least <= amplitude <= WIDEST * greatest:
            off = max(amplitude, 1 / max(amplitude, 1e-30))
            times = f"{amplitude:.0f}" if amplitude >= 10 else f"{amplitude:.2g}"
            found.append((off, f"not converged: amplitude of {channel.title} {times} times the data's"))
    return max(found)[1] if found else None


def flags(row: dict, first: dict, floor: dict, same: float = SAME) -> list[str]:
    """What is suspicious about a row, against the first method's row and the data floor: fields that are no samples of
    the data, a gain that is not one. Ratios of the forward-solve error within `same` of 1 are no difference."""
    far = unconverged(row, floor)
    found = [far] if far else []
    if row["residual_rms"] < 0.98 * floor["residual_rms"]:
        found.append("below the data floor")
    if row["residual_rms"] < (1 - SAME) * first["residual_rms"]:
        if row["solve_error_median"] > (1 + same) * first["solve_error_median"]:
            found.append("residual falls while forward-solve error rises")
        if "second_residual_rms" in row and row["second_residual_rms"] > (1 + SAME) * first["second_residual_rms"]:
            found.append("residual falls by one stencil while it rises by another")
    if row.get("diversity") is not None and row["diversity"] < LOST * first["diversity"]:
        found.append("diversity lost")
    return found


def places(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Where each key stands in `keys`: what has the same key can be sampled together."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return found


class Drawn(NamedTuple):
    """Samples `[n, c, N, N]` in physical units, on the CPU; network evaluations a sample, and seconds for all, that
    the model would have taken alone."""

    fields: Tensor
    nfe: int
    seconds: float


@torch.no_grad()
def draw_together(
    checkpoints: list[Checkpoint], steps: int, n: int, seed: int, batch: int = 32, workers: Team = ALONE
) -> list[Drawn]:
    """`n` samples of each checkpoint from the same noise, drawn on the device that the models are on.

    The checkpoints must agree on the PDE, the resolution and the sampler; what they have in common is computed once.
    The processes of a team draw a share each, and all get all samples."""
    info, problems = checkpoints[0].info, [c.problem for c in checkpoints]
    schedule = info.schedule.with_steps(steps)
    noise = initial_noise(n, (len(problems[0].channels), info.resolution, info.resolution), seed)
    denoisers, parts = [c.denoiser for c in checkpoints], []
    device = next(denoisers[0].parameters()).device
    for part in workers.share(noise).split(batch):
        if len(part):
            *_, ends = together(denoisers, part.to(device), schedule)
            taken = [(end.nfe, end.seconds) for end in ends]
            parts.append(([pde.denormalise(e.x.cpu()) for pde, e in zip(problems, ends, strict=True)], taken))
    parts = workers.gather(parts)
    fields = [torch.cat(drawn) for drawn in zip(*(drawn for drawn, _ in parts), strict=True)]
    nfe = [count for count, _ in parts[0][1]]
    seconds = [sum(took for _, took in each) / workers.size for each in zip(*(t for _, t in parts), strict=True)]
    return [Drawn(*each) for each in zip(fields, nfe, seconds, strict=True)]


def draw_fields(checkpoint: Checkpoint, steps: int, n: int, seed: int, batch: int = 32) -> tuple[Tensor, int]:
    """Samples of one checkpoint, as `draw_together`, and their NFE."""
    (drawn,) = draw_together([checkpoint], steps, n, seed, batch)
    return drawn.fields, drawn.nfe


def evaluate(
    checkpoints: list[Checkpoint], steps: int, n: int, seeds: Sequence[int], workers: Team = ALONE
) -> list[dict]:
    """One report row for each of the checkpoints of a PDE: `n` samples of every noise seed, measured together, and in
    `by_seed` what decides, seed by seed. `seconds` is what each took, whatever it shared with others."""
    rows: dict[int, dict] = {}
    for members in places((c.info.pde, c.info.resolution, c.info.schedule) for c in checkpoints).values():
        drawn = [draw_together([checkpoints[i] for i in members], steps, n, s, workers=workers) for s in seeds]
        for i, parts in zip(members, zip(*drawn, strict=True), strict=True):
            info = checkpoints[i].info
            row = info.label | {"steps": steps, "nfe": parts[0].nfe, "solver": info.schedule.solver}
            row |= {"n": n * len(seeds), "seeds": list(seeds), "seconds": sum(part.seconds for part in parts)}
            row |= figures(info.benchmark, torch.cat([part.fields for part in parts]))
            rows[i] = row | {"by_seed": [deciding(info.benchmark, part.fields) for part in parts]}
    return [rows[i] for i in range(len(checkpoints))]


def deciding(pde: PDE, fields: Tensor) -> dict:
    """The figures that one method is held against another by."""
    residuals, errors = residual_rms(pde, fields), pde.solve_error(fields)
    return {
        "residual_rms": residuals.square().mean().sqrt().item(),
        "residual_median": residuals.quantile(0.5).item(),
        "solve_error_median": errors.quantile(0.5).item(),
    }


def environment(device: torch.device) -> dict:
    """What a report says of where it was measured: on `device`."""
    from .. import __version__

    return {
        "pirf_app": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "precision": PRECISION,
    }
