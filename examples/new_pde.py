"""A new benchmark in one file: u_t + u_x / 2 = 0.01 u_xx on a periodic line over a unit of time.

Copy this file to `pirf_app/pdes/` and every test, command and tab knows it. Or leave it where it is: run as a script it
prints what CONTRIBUTING asks you to look at.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pirf_app.pdes.base import PDE, Channel, register
from pirf_app.pdes.random_fields import periodic_field

SPEED, DIFFUSION = 0.5, 0.01
MODES = 5  # of the initial state: few, so that coarse grids resolve it


def growth(n: int) -> Tensor:
    """The exponent by which each Fourier mode changes in a unit of time: `[n // 2 + 1]` complex."""
    k = 2 * torch.pi * torch.arange(n // 2 + 1, dtype=torch.float64)
    return torch.complex(-DIFFUSION * k**2, -SPEED * k)


@register
class Advection(PDE):
    # How it is called, and what the page says of it.
    name = "advection"
    title = "Advection and diffusion"
    equation = r"u_t + u_x/2 = 0.01\,u_{xx}"
    domain = "0 <= x < 1, 0 <= t <= 1; rows t = j/(N-1), columns x = i/N"
    boundary = "periodic in x; the first row is the initial state"
    # The geometry: rows are time, so the first row is what the solver is given; x wraps around, time does not.
    axes = ("t", "x")
    periodic = (False, True)
    vertices = (True, False)
    view = "space-time"
    min_resolution = 16
    # Half a period along the rows tells the network when it is.
    row_waves = (0.5,)
    # `python -m pirf_app statistics --pde advection` prints mean and deviation. The basis suits the boundary.
    channels = (Channel("u", "concentration u", "1", mean=0.0, std=0.234, is_input=False, basis=("cosine", "fourier")),)
    # What the same command calls the residual of solver data, on coarser grids too: the fourth-order error in time.
    residual_floor = 1e-3

    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        self.check_request(n, resolution, seed)
        first = torch.from_numpy(periodic_field(range(n), resolution, MODES, seed))
        return self._evolved(first).float()[:, None]

    def solve(self, fields: Tensor) -> Tensor:
        return self._evolved(fields[:, 0, 0].double().cpu())[:, None].to(fields)

    def _evolved(self, first: Tensor) -> Tensor:
        """Every row `[n, N, N]` from the first `[n, N]`, exactly, mode by mode."""
        n = first.shape[-1]
        times = torch.arange(n, dtype=torch.float64)[:, None] / (n - 1)
        return torch.fft.irfft(torch.fft.rfft(first)[:, None] * torch.exp(growth(n) * times).to(first.device), n)

    def residual(self, fields: Tensor) -> Tensor:
        """Over three rows, fourth order in time: (u_{j+1} - u_{j-1}) / 2 dt - (R_{j-1} + 4 R_j + R_{j+1}) / 6, R the
        right-hand side; zero in the first and last row, where no equation is asked for."""
        u, n = fields[:, 0], fields.shape[-1]
        right = torch.fft.irfft(growth(n).to(torch.fft.rfft(u)) * torch.fft.rfft(u), n)
        return self._over_three_rows(u, right)

    def second_residual(self, fields: Tensor) -> Tensor:
        """Fourth-order finite differences in x in place of the Fourier series."""
        u, h = fields[:, 0], 1 / fields.shape[-1]
        after, before, last, next_ = (u.roll(-2, -1), u.roll(2, -1), u.roll(1, -1), u.roll(-1, -1))
        u_x = (8 * (next_ - last) - (after - before)) / (12 * h)
        u_xx = (16 * (next_ + last) - (after + before) - 30 * u) / (12 * h**2)
        return self._over_three_rows(u, DIFFUSION * u_xx - SPEED * u_x)

    @staticmethod
    def _over_three_rows(u: Tensor, right: Tensor) -> Tensor:
        dt = 1 / (u.shape[-1] - 1)
        inner = (u[:, 2:] - u[:, :-2]) / (2 * dt) - (right[:, :-2] + 4 * right[:, 1:-1] + right[:, 2:]) / 6
        return pad(inner, (0, 0, 1, 1))

    def interior(self, field: Tensor) -> Tensor:
        return field[:, 1:-1]

    def error_field(self, fields: Tensor) -> Tensor:
        """What the residual has grown to by every row as the equation carries it on, in deviations of u."""
        n = fields.shape[-1]
        dt, r = 1 / (n - 1), torch.fft.rfft(self.residual(fields))
        # In the first and last row the residual is taken to be that of the next one.
        r = torch.cat([r[:, 1:2], r[:, 1:-1], r[:, -2:-1]], 1)
        step = torch.exp(growth(n) * dt).to(r)
        rows = [torch.zeros_like(r[:, 0])]
        for j in range(1, n):
            rows.append(step * (rows[-1] + dt / 2 * r[:, j - 1]) + dt / 2 * r[:, j])
        return torch.fft.irfft(torch.stack(rows, 1), n) / self.channels[0].std

    def boundary_violation(self, fields: Tensor) -> Tensor:
        """None: the grid wraps around."""
        return fields.new_zeros(len(fields))

    # Optional: a conservation law, with the words for it. It has to fail for what only looks like a solution.
    conservation = "from row to row the energy falls by what diffusion takes"
    conservation_short = "energy"

    def balance(self, fields: Tensor) -> Tensor:
        n = fields.shape[-1]
        energy = torch.fft.rfft(fields[:, 0]).abs().square()
        energy[..., 1 : (n + 1) // 2] *= 2  # of both signs of a wavenumber
        left = (energy * torch.exp(2 * growth(n).real / (n - 1)).to(energy)).sum(-1)[:, :-1]
        energy = energy.sum(-1)
        lost, gap = (energy[:, :-1] - left).sum(1), (energy[:, 1:] - left).abs().sum(1)
        return gap / lost.clamp_min(1e-12)

    # Optional: symmetries, which widen a pool of training data. Here shifts by eighths of the period, and u -> -u.
    symmetries = 16

    def transform(self, fields: Tensor, k: int) -> Tensor:
        shifted = fields.roll(round(k % 8 * fields.shape[-1] / 8), -1)
        return -shifted if k >= 8 else shifted


if __name__ == "__main__":
    from pirf_app.cli.main import main

    raise SystemExit(main(["statistics", "--pde", Advection.name]))
