"""From fields to figures: what the reward sees (residual) and what it never saw (conservation, distribution)."""

import platform
import time
from functools import lru_cache

import numpy as np
import torch
from scipy.fft import dctn
from scipy.stats import wasserstein_distance
from torch import Tensor

from .checkpoints import Checkpoint
from .diffusion.sampler import initial_noise, sample
from .pdes import PDE, get_pde
from .pdes.stencils import rms

# Solver seeds of the held-out data; training draws from seeds of 2^62 and more.
REFERENCE_SEED, FLOOR_SEED = 20_001, 20_002
REFERENCE_SAMPLES = 512
PROJECTIONS = 128


def solve_error(pde: PDE, fields: Tensor, solution: Tensor | None = None) -> Tensor:
    """Forward-solve error `[n]`: ||u - S|| / ||S|| over the solution channels, S the solver on the generated input."""
    channels = pde.solution_channels
    exact = (pde.solve(fields) if solution is None else solution)[:, channels].flatten(1)
    return (fields[:, channels].flatten(1) - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-30)


def residual_rms(pde: PDE, fields: Tensor) -> Tensor:
    """Per-sample RMS `[n]` of the residual where the equation holds."""
    return rms(pde.interior(pde.residual(fields)))


@lru_cache(maxsize=8)
def reference_data(pde_name: str, resolution: int) -> Tensor:
    """Held-out solver data `[512, c, N, N]` that generated fields are compared with."""
    return get_pde(pde_name).generate(REFERENCE_SAMPLES, resolution, REFERENCE_SEED)


def power_spectrum(fields: Tensor) -> np.ndarray:
    """Mean power per channel in shells of the cosine wavenumber, up to two thirds of the grid's: `[c, shells]`."""
    n = fields.shape[-1]
    power = (dctn(fields.double().numpy(), axes=(2, 3), norm="ortho") ** 2).mean(0)
    k = np.arange(n)
    shell = np.rint(np.hypot(k[:, None], k[None, :])).astype(int)
    return np.stack([[p[shell == s].mean() for s in range(1, 2 * n // 3)] for p in power])


def spectrum_error(fields: Tensor, reference: Tensor) -> float:
    """RMS over channels and shells of ln(power / reference power); a ratio below 1e-12 counts as 1e-12."""
    ratio = power_spectrum(fields) / power_spectrum(reference)
    return float(np.sqrt(np.mean(np.log(np.maximum(ratio, 1e-12)) ** 2)))


def sliced_wasserstein(fields: Tensor, reference: Tensor) -> float:
    """Mean 1-Wasserstein distance over fixed random projections of fields in units of each channel's deviation."""
    scale = reference.std((0, 2, 3), keepdim=True)
    directions = np.random.default_rng(0).standard_normal((PROJECTIONS, fields[0].numel()))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    left = directions @ (fields / scale).flatten(1).double().numpy().T
    right = directions @ (reference / scale).flatten(1).double().numpy().T
    return float(np.mean([wasserstein_distance(a, b) for a, b in zip(left, right, strict=True)]))


def pairwise_distance(pde: PDE, fields: Tensor) -> float:
    """Mean distance between two of at least two samples, in normalised units."""
    return torch.pdist(pde.normalise(fields).flatten(1)).mean().item()


def figures(pde: PDE, fields: Tensor) -> dict:
    """Every figure of a report row that depends on the fields alone `[n, c, N, N]` (physical units, float32).

    One sample has no diversity: None."""
    reference = reference_data(pde.name, fields.shape[-1])
    residuals, errors = residual_rms(pde, fields), solve_error(pde, fields)
    paper = pde.paper_residual(fields)
    alike = reference[: len(fields)]
    diversity = pairwise_distance(pde, fields) / pairwise_distance(pde, alike) if len(fields) > 1 else None
    return {
        "residual_rms": residuals.square().mean().sqrt().item(),
        "residual_median": residuals.quantile(0.5).item(),
        "boundary_rms": pde.boundary_violation(fields).square().mean().sqrt().item(),
        "solve_error_median": errors.quantile(0.5).item(),
        "solve_error_p90": errors.quantile(0.9).item(),
        "amplitude": (fields.std((0, 2, 3)) / reference.std((0, 2, 3))).tolist(),
        "diversity": diversity,
        "conservation_rate": (pde.balance(fields) <= 0.05).float().mean().item(),
        "spectrum_error": spectrum_error(fields, reference),
        "sliced_wasserstein": sliced_wasserstein(fields, reference),
        "paper_mse": paper.square().mean().item(),
        "paper_mae": paper.abs().mean().item(),
    }


def floors(pde_name: str, resolution: int, n: int) -> dict:
    """The same figures for held-out solver data: what a perfect model would score."""
    pde = get_pde(pde_name)
    return figures(pde, pde.generate(n, resolution, FLOOR_SEED))


def draw_fields(checkpoint: Checkpoint, steps: int, n: int, seed: int, batch: int = 32) -> tuple[Tensor, int]:
    """`n` samples `[n, c, N, N]` in physical units from a checkpoint with its own noise range, and the NFE."""
    pde, info = get_pde(checkpoint.info.pde), checkpoint.info
    noise = initial_noise(n, (len(pde.channels), info.resolution, info.resolution), seed)
    schedule = info.schedule.with_steps(steps)
    parts = [sample(checkpoint.denoiser, part, schedule) for part in noise.split(batch)]
    return pde.denormalise(torch.cat([x for x, _ in parts])), parts[0][1]


def evaluate(checkpoint: Checkpoint, steps: int, n: int, seed: int) -> dict:
    """One report row: sample, then measure."""
    start = time.perf_counter()
    fields, nfe = draw_fields(checkpoint, steps, n, seed)
    seconds = time.perf_counter() - start
    info = checkpoint.info
    row = {"pde": info.pde, "resolution": info.resolution, "method": info.method, "steps": steps, "nfe": nfe, "n": n}
    return row | {"seconds": seconds} | figures(get_pde(info.pde), fields)


def environment() -> dict:
    from . import __version__

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "pirf_app": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
