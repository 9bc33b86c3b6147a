"""Orthonormal function families on a line of N grid points, each suited to a boundary condition."""

import math

import torch
from torch import Tensor


def cosine(n: int) -> Tensor:
    """DCT-II rows: zero slope at both ends, cell centres or vertices."""
    k, x = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None, :] + 0.5
    basis = math.sqrt(2 / n) * torch.cos(torch.pi * k * x / n)
    basis[0] *= math.sqrt(0.5)
    return basis


def sine(n: int) -> Tensor:
    """DST-II rows: zero at walls half a cell outside the outermost cell centres."""
    k, x = torch.arange(1, n + 1, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None, :] + 0.5
    basis = math.sqrt(2 / n) * torch.sin(torch.pi * k * x / n)
    basis[-1] *= math.sqrt(0.5)
    return basis


def sine_vertices(n: int) -> Tensor:
    """DST-I rows on the inner vertices, zero at the first and last vertex; the last two rows are those vertices."""
    m = torch.arange(1, n - 1, dtype=torch.float64)
    basis = torch.zeros(n, n, dtype=torch.float64)
    basis[:-2, 1:-1] = math.sqrt(2 / (n - 1)) * torch.sin(torch.pi * m[:, None] * m[None, :] / (n - 1))
    basis[-2, 0] = basis[-1, -1] = 1
    return basis


def cosine_inner(n: int) -> Tensor:
    """DCT-II rows on the inner vertices; the last two rows are the first and last vertex, apart."""
    basis = torch.zeros(n, n, dtype=torch.float64)
    basis[:-2, 1:-1] = cosine(n - 2)
    basis[-2, 0] = basis[-1, -1] = 1
    return basis


def fourier(n: int) -> Tensor:
    """Constant, then cosine and sine of every wavenumber in turn: a line that closes on itself."""
    x = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    rows = [torch.full((n,), math.sqrt(1 / n), dtype=torch.float64)]
    for k in range(1, n // 2 + 1):
        last = 2 * k == n
        rows.append(math.sqrt((1 if last else 2) / n) * torch.cos(k * x))
        if not last:
            rows.append(math.sqrt(2 / n) * torch.sin(k * x))
    return torch.stack(rows)


BASES = {
    "cosine": cosine,
    "cosine-inner": cosine_inner,
    "sine": sine,
    "sine-vertices": sine_vertices,
    "fourier": fourier,
}


def basis(name: str, n: int) -> Tensor:
    """`[N, N]` float64, one function a row, from the smoothest on; orthonormal. Numbers even where a network is only
    outlined, on "meta": arithmetic there would load torch's compiler, which takes seconds."""
    with torch.device("cpu"):
        return BASES[name](n)
