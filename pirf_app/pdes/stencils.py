"""Second-order stencils shared by the benchmarks. All take and return torch tensors `[..., h, w]` of any float type."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def laplacian_5pt(u: Tensor, h: float) -> Tensor:
    """5-point Laplacian at the interior vertices, `[..., h, w] -> [..., h-2, w-2]`; error O(h^2)."""
    centre = u[..., 1:-1, 1:-1]
    neighbours = u[..., 2:, 1:-1] + u[..., :-2, 1:-1] + u[..., 1:-1, 2:] + u[..., 1:-1, :-2]
    return (neighbours - 4 * centre) / h**2


def laplacian_9pt(u: Tensor, h: float) -> Tensor:
    """Compact 9-point Laplacian at the interior vertices, `[..., h, w] -> [..., h-2, w-2]`: each second difference is
    averaged (1, 10, 1)/12 across its own direction; error O(h^2), of h^2/12 lap^2 u alone."""
    across = u[..., :, 2:] + u[..., :, :-2] - 2 * u[..., :, 1:-1]
    return laplacian_5pt(u, h) + (across[..., 2:, :] + across[..., :-2, :] - 2 * across[..., 1:-1, :]) / (6 * h**2)


def harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    return 2 * a * b / (a + b)


def face_fluxes(a: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Flux of -a grad u, times h, through every vertical `[..., h, w+1]` and horizontal `[..., h+1, w]` cell face.

    Cell-centred finite volumes with harmonic face means; u = 0 on the walls, half a cell from the outermost centres.
    """
    across_x = harmonic_mean(a[..., :, 1:], a[..., :, :-1]) * (u[..., :, :-1] - u[..., :, 1:])
    across_y = harmonic_mean(a[..., 1:, :], a[..., :-1, :]) * (u[..., :-1, :] - u[..., 1:, :])
    wall = 2 * a * u
    flux_x = torch.cat([-wall[..., :, :1], across_x, wall[..., :, -1:]], -1)
    flux_y = torch.cat([-wall[..., :1, :], across_y, wall[..., -1:, :]], -2)
    return flux_x, flux_y


def divergence_flux(a: Tensor, u: Tensor, h: float) -> Tensor:
    """-div(a grad u) in every cell `[..., h, w]`, conservative: the sum over cells is the flux through the walls."""
    flux_x, flux_y = face_fluxes(a, u)
    return (flux_x.diff(dim=-1) + flux_y.diff(dim=-2)) / h**2


def divergence_averaged(a: Tensor, u: Tensor, h: float) -> Tensor:
    """-div(a grad u) like `divergence_flux`, with each face's flux averaged (1, 10, 1)/12 along its wall of faces.

    The flux along a wall is zero on it, so a flux just outside is minus the one just inside."""
    flux_x, flux_y = face_fluxes(a, u)
    up_down = torch.cat([-flux_x[..., :1, :], flux_x, -flux_x[..., -1:, :]], -2)
    left_right = torch.cat([-flux_y[..., :1], flux_y, -flux_y[..., -1:]], -1)
    flux_x = flux_x + up_down.diff(n=2, dim=-2) / 12
    flux_y = flux_y + left_right.diff(n=2, dim=-1) / 12
    return (flux_x.diff(dim=-1) + flux_y.diff(dim=-2)) / h**2


def replicate_pad(u: Tensor) -> Tensor:
    """One ring of copied edge values around `[n, h, w]`."""
    return pad(u.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)


def gradient_2nd(u: Tensor, h: float, dim: int) -> Tensor:
    """First derivative along `dim`: central inside, second-order one-sided at the two ends."""
    n = u.shape[dim]
    take = lambda start, length: u.narrow(dim, start, length)  # noqa: E731
    inner = (take(2, n - 2) - take(0, n - 2)) / (2 * h)
    first = (-3 * take(0, 1) + 4 * take(1, 1) - take(2, 1)) / (2 * h)
    last = (3 * take(n - 1, 1) - 4 * take(n - 2, 1) + take(n - 3, 1)) / (2 * h)
    return torch.cat([first, inner, last], dim)


def second_difference(u: Tensor, h: float, dim: int) -> Tensor:
    """Second derivative along `dim`: central inside, (2, -5, 4, -1) / h^2 at the two ends; error O(h^2)."""
    n = u.shape[dim]
    take = lambda i, length=1: u.narrow(dim, i, length)  # noqa: E731
    inner = take(0, n - 2) - 2 * take(1, n - 2) + take(2, n - 2)
    first = 2 * take(0) - 5 * take(1) + 4 * take(2) - take(3)
    last = 2 * take(n - 1) - 5 * take(n - 2) + 4 * take(n - 3) - take(n - 4)
    return torch.cat([first, inner, last], dim) / h**2


def shares(count: int, cells: int, like: Tensor) -> Tensor:
    """How much of each of `cells` cells in a row lies in each of `count` equal parts of it: `[count, cells]`."""
    ends = torch.arange(count + 1, dtype=torch.float64)[:, None] * cells / count
    return (ends - torch.arange(cells)).clamp(0, 1).diff(dim=0).to(like)


def block_sums(field: Tensor, count: int) -> Tensor:
    """Sums of `[n, h, w]` over `count` by `count` equal rectangles, `[n, count, count]`; a cell that several share
    counts to each by its part in it."""
    rows, columns = (shares(count, size, field) for size in field.shape[-2:])
    return rows @ field @ columns.T


def square_symmetry(fields: Tensor, k: int) -> Tensor:
    """`fields [..., N, N]` under element k (0 to 7) of the symmetry group of the square; 0 is the identity."""
    turned = torch.rot90(fields, k % 4, (-2, -1))
    return turned.flip(-1) if k >= 4 else turned


def rms(x: Tensor) -> Tensor:
    """Root mean square over everything but the first axis."""
    return x.flatten(1).square().mean(1).sqrt()
