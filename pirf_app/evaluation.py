"""From fields to figures: what the reward sees (residual) and what it never saw (conservation, distribution)."""

import platform
import time
from collections.abc import Hashable, Iterable

import torch
from torch import Tensor

from .checkpoints import Checkpoint
from .diffusion.sampler import initial_noise, together
from .parallel import ALONE, Team, device_name
from .pdes import PDE, get_pde
from .pdes.stencils import rms
from .statistics import (
    FLOOR_SEED,
    pairwise_distance,
    power_spectrum,
    projected,
    reference,
    sliced_wasserstein,
    spectrum_deviation,
    spectrum_error,
)

CLOSED = 0.05  # violation of a conservation law that counts as none
SAME = 0.02  # ratios this close to 1 are called equal
LOST = 0.95  # ratio of diversities below which some was lost


def residual_rms(pde: PDE, fields: Tensor) -> Tensor:
    """Per-sample RMS `[n]` of the residual where the equation holds."""
    return rms(pde.interior(pde.residual(fields)))


def figures(pde: PDE, fields: Tensor) -> dict:
    """Every figure of a report row that depends on the fields alone `[n, c, N, N]` (physical units, float32).

    One sample has no diversity: None."""
    resolution = fields.shape[-1]
    known = reference(pde.name, resolution)
    residuals, errors = residual_rms(pde, fields), pde.solve_error(fields)
    paper, spectrum = pde.paper_residual(fields), power_spectrum(pde, fields)
    return {
        "residual_rms": residuals.square().mean().sqrt().item(),
        "residual_median": residuals.quantile(0.5).item(),
        "second_residual_rms": rms(pde.interior(pde.second_residual(fields))).square().mean().sqrt().item(),
        "boundary_rms": pde.boundary_violation(fields).square().mean().sqrt().item(),
        "solve_error_median": errors.quantile(0.5).item(),
        "solve_error_p90": errors.quantile(0.9).item(),
        "amplitude": (fields.double().std((0, 2, 3)) / torch.from_numpy(known.std)).tolist(),
        "diversity": pairwise_distance(pde, fields) / known.distance if len(fields) > 1 else None,
        "conservation_rate": (pde.balance(fields) <= CLOSED).float().mean().item(),
        "spectrum_error": spectrum_error(spectrum, known.spectrum),
        "spectrum_deviation": spectrum_deviation(pde, spectrum, known.spectrum, resolution),
        "sliced_wasserstein": sliced_wasserstein(projected(fields, known.std), known.quantiles),
        "paper_mse": paper.square().mean().item(),
        "paper_mae": paper.abs().mean().item(),
    }


def floors(pde_name: str, resolution: int, n: int) -> dict:
    """The same figures for held-out solver data: what a perfect model would score."""
    pde = get_pde(pde_name)
    return figures(pde, pde.generate(n, resolution, FLOOR_SEED))


def flags(row: dict, first: dict, floor: dict, same: float = SAME) -> list[str]:
    """What is suspicious about a row, against the first method's row and the data floor: a gain that is not one.
    Ratios of the forward-solve error within `same` of 1 are no difference."""
    found = []
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


@torch.no_grad()
def draw_together(
    checkpoints: list[Checkpoint], steps: int, n: int, seed: int, batch: int = 32, workers: Team = ALONE
) -> tuple[list[Tensor], int]:
    """`n` samples `[n, c, N, N]` in physical units of each checkpoint from the same noise, and the NFE of one; drawn on
    the device that the models are on, returned on the CPU.

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
            parts.append([pde.denormalise(end.x.cpu()) for pde, end in zip(problems, ends, strict=True)])
    fields = [torch.cat(drawn) for drawn in zip(*workers.gather(parts), strict=True)]
    return fields, schedule.evaluations(steps)


def draw_fields(checkpoint: Checkpoint, steps: int, n: int, seed: int, batch: int = 32) -> tuple[Tensor, int]:
    """`draw_together` for one checkpoint."""
    (fields,), nfe = draw_together([checkpoint], steps, n, seed, batch)
    return fields, nfe


def evaluate(checkpoints: list[Checkpoint], steps: int, n: int, seed: int, workers: Team = ALONE) -> list[dict]:
    """One report row for each of the checkpoints of a PDE: sample, then measure. `seconds` is what the samples of all
    that share a sampler took together."""
    rows: dict[int, dict] = {}
    for members in places((c.info.pde, c.info.resolution, c.info.schedule) for c in checkpoints).values():
        start = time.perf_counter()
        drawn, nfe = draw_together([checkpoints[i] for i in members], steps, n, seed, workers=workers)
        seconds = time.perf_counter() - start
        for i, fields in zip(members, drawn, strict=True):
            info = checkpoints[i].info
            row = {"pde": info.pde, "resolution": info.resolution, "method": info.method, "steps": steps, "nfe": nfe}
            rows[i] = (
                row | {"solver": info.schedule.solver, "n": n, "seconds": seconds} | figures(get_pde(info.pde), fields)
            )
    return [rows[i] for i in range(len(checkpoints))]


def environment(device: torch.device) -> dict:
    """What a report says of where it was measured: on `device`."""
    from . import __version__

    return {
        "pirf_app": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
    }
