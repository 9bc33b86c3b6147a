"""Burgers' equation, u_t + u u_x = 0.01 u_xx on a periodic unit interval over a unit of time.

Rows are times t_j = j/(N-1), columns x_i = i/N; pseudo-spectral in space with the 2/3 rule, ETDRK4 in time. The
nonlinear term sees and feeds wavenumbers up to (N-1)//3 only, and u0 has none above; diffusion acts on all.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.fft import fft, irfft, rfft
from torch import Tensor
from torch.nn.functional import pad

from .base import PDE, Channel, register
from .random_fields import periodic_field
from .spectral import Etdrk4, kept_modes
from .stencils import shares

VISCOSITY = 0.01
WINDOWS = 8  # of time, for the conservation law
# Steps of the solver from one row to the next: at 64 its error in time is then 4e-6 at most, and 5e-8 RMS.
SUBSTEPS = 2
# Samples integrated at once, always this many: a sample's place in its batch, and so its last bit, never changes.
BATCH = 16


def wavenumbers(resolution: int) -> np.ndarray:
    """2 pi k of the real transform of N points, `[N//2 + 1]`."""
    return 2 * np.pi * np.arange(resolution // 2 + 1)


def simulate(u0: np.ndarray, rows: int, substeps: int = SUBSTEPS) -> np.ndarray:
    """u at `rows` times from 0 to 1, `[n, rows, N]`, from initial states `[n, N]`; float64."""
    n = u0.shape[-1]
    k, keep = wavenumbers(n), kept_modes(n) + 1
    stepper = Etdrk4(-VISCOSITY * k**2, 1 / (rows - 1) / substeps)
    half_ik = 0.5j * k[:keep]

    def advection(v: np.ndarray) -> np.ndarray:
        out = np.zeros_like(v)
        out[:, :keep] = -half_ik * rfft(irfft(v[:, :keep], n) ** 2)[:, :keep]
        return out

    states = [rfft(u0)]
    for _ in range(rows - 1):
        states.append(stepper.advance(states[-1], advection, substeps))
    return irfft(np.stack(states, 1), n)


@lru_cache(maxsize=4)
def heat_response(resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What integrates e_t = 0.01 e_xx + r from e = 0, for r linear between the rows, exactly in each Fourier mode:
    e_j is the sum over m <= j of exp(z (j - m)) (a r_{m-1} + b r_m) with z = -0.01 (2 pi k)^2 dt.

    a and b `[N//2 + 1]`, and the transform over 2N rows of exp(z j) `[2N, N//2 + 1]`; float64."""
    dt = 1 / (resolution - 1)
    z = -VISCOSITY * wavenumbers(resolution) ** 2 * dt
    safe = np.where(z > -1e-3, -1.0, z)
    phi1 = np.where(z > -1e-3, 1 + z / 2 + z**2 / 6, np.expm1(safe) / safe)
    phi2 = np.where(z > -1e-3, 1 / 2 + z / 6 + z**2 / 24, (np.expm1(safe) - safe) / safe**2)
    decay = np.exp(z * np.arange(resolution)[:, None])
    return dt * (phi1 - phi2), dt * phi2, fft(decay, 2 * resolution, axis=0)


@register
class Burgers(PDE):
    name = "burgers"
    title = "Burgers"
    equation = r"u_t + u\,u_x = 0.01\,u_{xx}"
    domain = "0 <= x < 1, 0 <= t <= 1; rows t = j/(N-1), columns x = i/N"
    boundary = "periodic in x; the first row is the initial state"
    conservation = "in every eighth of the time the energy falls by what viscosity takes, and the total of u stays"
    conservation_short = "energy, total u"
    axes = ("t", "x")
    periodic = (False, True)
    vertices = (True, False)
    view = "space-time"
    residual_floor = 2e-3
    row_waves = (0.5,)
    symmetries = 16
    published_scaling = {"offset": [0.0], "scale": [1.415]}
    channels = (Channel("u", "velocity u", "1", mean=0.0, std=0.2, is_input=False, basis=("cosine", "fourier")),)

    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        self.check_request(n, resolution, seed)
        parts = []
        for start in range(0, n, BATCH):
            u0 = periodic_field(range(start, min(n, start + BATCH)), resolution, kept_modes(resolution), seed)
            u0 = np.pad(u0, [(0, BATCH - len(u0)), (0, 0)])
            parts.append(simulate(u0, resolution).astype(np.float32))
        return torch.from_numpy(np.concatenate(parts)[:n, None])

    def solve(self, fields: Tensor) -> Tensor:
        u0 = fields[:, 0, 0].detach().cpu().double().numpy()
        return torch.from_numpy(simulate(u0, fields.shape[-1]))[:, None].to(fields)

    def right_hand_side(self, u: Tensor) -> Tensor:
        """0.01 u_xx - (u^2/2)_x at every row `[n, h, w]`, as in the solver."""
        n = u.shape[-1]
        keep = kept_modes(n) + 1
        k = torch.from_numpy(wavenumbers(n)).to(u)
        v = torch.fft.rfft(u)
        squared = torch.fft.rfft(torch.fft.irfft(v[..., :keep], n).square())[..., :keep]
        advection = pad(0.5j * k[:keep] * squared, (0, len(k) - keep))
        return torch.fft.irfft(-VISCOSITY * k**2 * v - advection, n)

    def residual(self, fields: Tensor) -> Tensor:
        """Over three rows, fourth order in time: (u_{j+1} - u_{j-1}) / 2 dt - (R_{j-1} + 4 R_j + R_{j+1}) / 6, R the
        right-hand side; zero in the first and last row."""
        u, dt = fields[:, 0], 1 / (fields.shape[-1] - 1)
        r = self.right_hand_side(u)
        inner = (u[:, 2:] - u[:, :-2]) / (2 * dt) - (r[:, :-2] + 4 * r[:, 1:-1] + r[:, 2:]) / 6
        return pad(inner, (0, 0, 1, 1))

    def second_residual(self, fields: Tensor) -> Tensor:
        """Finite differences: fourth order in x, the advection in conservative form; over three rows as `residual`."""
        u, dt, h = fields[:, 0], 1 / (fields.shape[-1] - 1), 1 / fields.shape[-1]
        flux = u.square() / 2
        flux_x = (8 * (flux.roll(-1, -1) - flux.roll(1, -1)) - (flux.roll(-2, -1) - flux.roll(2, -1))) / (12 * h)
        u_xx = 16 * (u.roll(-1, -1) + u.roll(1, -1)) - (u.roll(-2, -1) + u.roll(2, -1)) - 30 * u
        r = VISCOSITY * u_xx / (12 * h**2) - flux_x
        inner = (u[:, 2:] - u[:, :-2]) / (2 * dt) - (r[:, :-2] + 4 * r[:, 1:-1] + r[:, 2:]) / 6
        return pad(inner, (0, 0, 1, 1))

    def interior(self, field: Tensor) -> Tensor:
        return field[:, 1:-1]

    def transform(self, fields: Tensor, k: int) -> Tensor:
        """Shifts by eighths of the period, to the nearest column, with x -> -x, u -> -u from number 8 on."""
        if k >= 8:
            fields = -fields.flip(-1).roll(1, -1)
        return fields.roll(round(k % 8 * fields.shape[-1] / 8), -1)

    def boundary_violation(self, fields: Tensor) -> Tensor:
        """None: the grid wraps around."""
        return fields.new_zeros(len(fields))

    def paper_residual(self, fields: Tensor) -> Tensor:
        u, n = fields[:, 0], fields.shape[-1]

        def first_difference(x: Tensor, dim: int) -> Tensor:
            first, last = x.narrow(dim, 0, 1), x.narrow(dim, n - 1, 1)
            x = torch.cat([first, x, last], dim)
            return (x.narrow(dim, 2, n) - x.narrow(dim, 0, n)) * (n / 2)

        u_x = first_difference(u, -1)
        return first_difference(u, -2) + u * u_x - VISCOSITY * first_difference(u_x, -1)

    def balance(self, fields: Tensor) -> Tensor:
        """The larger of two: |change of the energy u^2/2 + what viscosity takes|, summed over eighths of the time,
        over all that viscosity takes; and the largest change of the mean of u since the first row, over the mean of
        |u| there. What viscosity takes between two rows is the integral of the cubic through the four nearest."""
        u, n = fields[:, 0], fields.shape[-1]
        k = torch.from_numpy(wavenumbers(n)).to(u)
        gradient = torch.fft.irfft(1j * k * (torch.arange(len(k)).to(u) < n / 2) * torch.fft.rfft(u), n)
        taken = VISCOSITY * gradient.square().mean(-1)
        first, inner = torch.tensor([9.0, 19, -5, 1]).to(u), torch.tensor([-1.0, 13, 13, -1]).to(u)
        inside = taken.unfold(1, 4, 1) @ inner
        lost = torch.cat([taken[:, :4] @ first[:, None], inside, taken[:, -4:].flip(1) @ first[:, None]], 1)
        lost = lost / (24 * (n - 1))
        gap = (u.square().mean(-1) / 2).diff(dim=1) + lost
        energy = (gap @ shares(WINDOWS, n - 1, u).T).abs().sum(1) / lost.sum(1).clamp_min(1e-12)
        mean = u.mean(-1)
        drift = (mean - mean[:, :1]).abs().amax(1) / u[:, 0].abs().mean(-1).clamp_min(1e-6)
        return torch.maximum(energy, drift)

    def error_field(self, fields: Tensor) -> Tensor:
        """The residual integrated in time as diffusion would carry it on, e_t = 0.01 e_xx + r with e = 0 in the first
        row, in units of the standard deviation of u; advection is left out of the inverse."""
        n = fields.shape[-1]
        r = torch.fft.rfft(self.residual(fields))
        before, at, response = (torch.from_numpy(part).to(r) for part in heat_response(n))
        # The equation is not asked for in the first and last row: the residual there is taken as in the next one.
        r = torch.cat([r[:, 1:2], r[:, 1:-1], r[:, -2:-1]], 1)
        gained = pad(before * r[:, :-1] + at * r[:, 1:], (0, 0, 1, 0))
        e = torch.fft.ifft(torch.fft.fft(gained, 2 * n, dim=1) * response, dim=1)[:, :n]
        return torch.fft.irfft(e, n) / self.channels[0].std
