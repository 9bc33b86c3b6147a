"""The distribution of fields: spectra, projections and distances, of samples and of held-out data to compare with.

The held-out data's statistics at the bundled resolution are kept in `assets/reference` (made by the command
`reference`); elsewhere they are measured on the spot from fewer fields.
"""

import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.fft import dct, rfft
from torch import Tensor

from ..common.checks import InputError
from ..common.files import is_pointer, write_arrays
from ..common.paths import ASSETS
from ..pdes import PDE, get_pde

# Solver seeds of the held-out data; training draws from seeds of 2^62 and more.
REFERENCE_SEED, FLOOR_SEED = 20_001, 20_002
REFERENCE_SAMPLES = 512
PROJECTIONS, QUANTILES = 128, 256
FAINT = 1e-9  # of the strongest shell's power: less is rounding, and counts as none
FOLDER = ASSETS / "reference"


def _power_along(power: np.ndarray, axis: int, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal transform of `power` along an axis, squared magnitudes folded to wavenumbers in half waves."""
    n = power.shape[axis]
    if not periodic:
        return dct(power, axis=axis, norm="ortho"), np.arange(n)
    both_signs = np.full(n // 2 + 1, np.sqrt(2))
    both_signs[[0, -1] if n % 2 == 0 else [0]] = 1
    shape = [1] * power.ndim
    shape[axis] = -1
    return rfft(power, axis=axis, norm="ortho") * both_signs.reshape(shape), 2 * np.arange(n // 2 + 1)


def power_spectrum(pde: PDE, fields: Tensor) -> np.ndarray:
    """Mean power per channel `[c, shells]` in shells of the wavenumber, from the mean up to the grid's own limit along
    an axis; cosine modes along an axis with ends (shells one half wave wide), Fourier modes on a periodic domain (one
    wave wide)."""
    x = fields.double().numpy()
    if all(pde.periodic):  # both signs of the first wavenumber matter, so not two real transforms
        n = x.shape[-1]
        power = (np.abs(np.fft.fft2(x, norm="ortho")) ** 2).mean(0)
        k = np.fft.fftfreq(n, 1 / n)
        shells = np.rint(np.hypot(k[:, None], k[None, :])).astype(int)
        last = n // 2
    else:
        modes, rows = _power_along(x, 2, pde.periodic[0])
        modes, columns = _power_along(modes, 3, pde.periodic[1])
        power = (np.abs(modes) ** 2).mean(0)
        shells = np.rint(np.hypot(rows[:, None], columns[None, :])).astype(int)
        last = x.shape[-1] - 1
    counts = np.bincount(shells.ravel())[: last + 1]
    sums = np.stack([np.bincount(shells.ravel(), p.ravel())[: last + 1] for p in power])
    return sums[:, counts > 0] / counts[counts > 0]


@lru_cache(maxsize=8)
def _directions(size: int) -> np.ndarray:
    directions = np.random.default_rng(0).standard_normal((PROJECTIONS, size))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


def projected(fields: Tensor, std: np.ndarray) -> np.ndarray:
    """Quantiles `[128, 256]` of fields in units of each channel's deviation, along fixed random directions."""
    x = (fields / torch.from_numpy(std).to(fields)[:, None, None]).flatten(1).float().numpy()
    values = np.sort(_directions(x.shape[1]) @ x.T, axis=1)
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return values[:, np.floor(at * values.shape[1]).astype(int)]


def pairwise_distance(pde: PDE, fields: Tensor) -> float:
    """Mean distance between two of at least two samples, in normalised units."""
    return torch.pdist(pde.normalise(fields).flatten(1)).mean().item()


@dataclass(frozen=True)
class Statistics:
    """Of n fields: standard deviation `[c]` of each channel, the least and the greatest one of a single field
    `[2, c]` in its units, power spectrum `[c, shells]`, quantiles along random directions `[128, 256]` and the mean
    distance of two fields."""

    n: int
    std: np.ndarray
    amplitudes: np.ndarray
    spectrum: np.ndarray
    quantiles: np.ndarray
    distance: float

    @classmethod
    def of(cls, pde: PDE, fields: Tensor) -> "Statistics":
        """Of `fields [n, c, N, N]` in physical units, n at least 2."""
        std = fields.double().std((0, 2, 3)).numpy()
        single = fields.double().std((2, 3)).numpy() / std
        amplitudes = np.stack([single.min(0), single.max(0)])
        distance = pairwise_distance(pde, fields[:1024])
        return cls(len(fields), std, amplitudes, power_spectrum(pde, fields), projected(fields, std), distance)

    def save(self, path: Path) -> None:
        """Raises InputError."""
        small = {"spectrum": self.spectrum.astype(np.float32), "quantiles": self.quantiles.astype(np.float16)}
        write_arrays(path, n=self.n, std=self.std, amplitudes=self.amplitudes, distance=self.distance, **small)

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """What `save` wrote. Raises InputError for another file."""
        try:
            if is_pointer(path):
                raise InputError(f"{path} is a Git LFS pointer, not the statistics themselves: run `git lfs pull`")
            with np.load(path) as file:
                quantiles = file["quantiles"].astype(np.float32)
                kept = (file[name] for name in ("std", "amplitudes", "spectrum"))
                return cls(int(file["n"]), *kept, quantiles, float(file["distance"]))
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is not a file of reference statistics ({type(error).__name__})") from None


def reference_path(pde_name: str, resolution: int) -> Path:
    return FOLDER / f"{pde_name}-{resolution}.npz"


@lru_cache(maxsize=16)
def reference(
    pde_name: str, resolution: int, parameters: tuple[tuple[str, float], ...] = (), fields: int | None = None
) -> Statistics:
    """Statistics of held-out solver data: those kept, or of so many fields (else 512) made now. `parameters` as
    `PDE.own_parameters`: what is kept is of the default ones."""
    path, pde = reference_path(pde_name, resolution), get_pde(pde_name, parameters)
    if path.exists() and not pde.differing(resolution):
        return Statistics.load(path)
    return Statistics.of(pde, pde.generate(fields or REFERENCE_SAMPLES, resolution, REFERENCE_SEED))


def amplitude_range(pde: PDE, resolution: int, fields: int = 64) -> list[list[float]]:
    """The least and the greatest standard deviation over a single field of held-out data, by channel, in units of the
    channel's; from the statistics that are kept, or of so many fields made now."""
    if reference_path(pde.name, resolution).exists() and not pde.differing(resolution):
        return reference(pde.name, resolution).amplitudes.T.tolist()
    return Statistics.of(pde, pde.generate(fields, resolution, FLOOR_SEED)).amplitudes.T.tolist()


def spectrum_ratio(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Power over reference power `[c, shells]`, both with `FAINT` of the reference's strongest shell added."""
    faint = FAINT * theirs.max(1, keepdims=True)
    return (mine + faint) / (theirs + faint)


def spectrum_error(mine: np.ndarray, theirs: np.ndarray) -> float:
    """RMS over channels and shells of ln(power / reference power)."""
    return float(np.sqrt(np.mean(np.log(spectrum_ratio(mine, theirs)) ** 2)))


def spectrum_deviation(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Largest |power / reference power - 1| of a shell and channel."""
    return float(np.abs(spectrum_ratio(mine, theirs) - 1).max())


def sliced_wasserstein(quantiles: np.ndarray, reference_quantiles: np.ndarray) -> float:
    """Mean 1-Wasserstein distance over the projections, from their quantiles."""
    return float(np.abs(quantiles - reference_quantiles).mean())
