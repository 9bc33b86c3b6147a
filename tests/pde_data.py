"""Solver data of every benchmark for the tests, as it comes and disturbed."""

from functools import lru_cache

import pytest
import torch

from pirf_app.pdes import get_pde, pde_names

every_pde = pytest.mark.parametrize("name", pde_names())
square = pytest.mark.parametrize("name", [n for n in ("darcy", "poisson", "helmholtz") if n in pde_names()])
SEED = 7


def time_axis(name: str) -> int | None:
    """The axis of `[n, c, h, w]` that is time."""
    return {"space-time": 2, "frames": 1}.get(get_pde(name).view)


evolving = pytest.mark.parametrize("name", [name for name in pde_names() if time_axis(name) is not None])


@lru_cache(maxsize=32)
def generated(name: str, n: int, resolution: int) -> torch.Tensor:
    return get_pde(name).generate(n, resolution, SEED)


def data(name: str, n: int = 3, resolution: int = 32) -> torch.Tensor:
    """The first `n` fields of a batch that the tests share, to be changed at will."""
    return generated(name, max(n, 16), resolution)[:n].clone()


def smallest(name: str) -> int:
    return max(8, get_pde(name).min_resolution)


def disturbed(name: str, resolution: int | None = None) -> torch.Tensor:
    """Solver data plus noise on every channel, float64; small enough on inputs to keep a two-phase medium's phases."""
    pde = get_pde(name)
    x = pde.normalise(data(name, 2, resolution or smallest(name)).double())
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    noise[:, pde.input_channels] *= 0.1
    return pde.denormalise(x + 0.3 * noise)
