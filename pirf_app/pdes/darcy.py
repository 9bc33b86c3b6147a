"""Darcy flow through a two-phase medium: -div(a grad u) = 1 on the unit square with u = 0 on the edge.

Cell-centred finite volumes, h = 1/N; the coefficient a is 12 where a Gaussian random field is positive and 3 elsewhere;
harmonic face means; a direct solve of the banded symmetric positive definite system. With the parameter "permeability"
the coefficient is log-normal instead.
"""

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from .base import PDE, Channel, register
from .bases import basis
from .parameters import Parameter, Value
from .poisson import edge_values
from .random_fields import neumann_field, neumann_spectrum
from .stencils import (
    block_sums,
    divergence_averaged,
    divergence_flux,
    gradient_2nd,
    rms,
    second_difference,
    square_symmetry,
)

LOW, HIGH, THRESHOLD = 3.0, 12.0, 7.5
NEAR = 1.0  # a permeability that is further from both phases is neither
PARTS = 4  # of the square along each axis, for the conservation law
# The laws of the permeability: two phases, or log-normal, whose logarithm has the field's covariance; two thirds of its
# values are then between the two phases.
TWO_PHASE, LOG_NORMAL = "two-phase", "log-normal"
MEDIAN, SPREAD = 6.0, 0.7
LEAST = 0.1  # permeability that a smooth medium is read to have at least


def two_phase(a: Tensor) -> Tensor:
    """The medium that a generated coefficient stands for: 12 where it is at least 7.5, else 3; what is not finite
    stands for none, and stays NaN."""
    return torch.where(a >= THRESHOLD, HIGH, LOW).to(a.dtype).where(a.isfinite(), torch.nan)


def solve_banded(a: np.ndarray) -> np.ndarray:
    """u `[N, N]` with `divergence_flux(a, u, 1/N) = 1`, for one positive coefficient field a `[N, N]`; float64."""
    n = a.shape[0]
    t_x = 2 * a[:, 1:] * a[:, :-1] / (a[:, 1:] + a[:, :-1])
    t_y = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    diagonal = np.zeros_like(a)
    diagonal[:, 1:] += t_x
    diagonal[:, :-1] += t_x
    diagonal[1:] += t_y
    diagonal[:-1] += t_y
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        diagonal[edge] += 2 * a[edge]
    bands = np.zeros((n + 1, n * n))
    bands[0] = diagonal.ravel()
    bands[1].reshape(n, n)[:, :-1] = -t_x
    bands[n, :-n] = -t_y.ravel()
    source = np.full(n * n, 1 / n**2)
    return solveh_banded(bands, source, lower=True, check_finite=False, overwrite_ab=True, overwrite_b=True).reshape(
        n, n
    )


@register
class Darcy(PDE):
    name = "darcy"
    title = "Darcy flow"
    equation = r"-\nabla\cdot(a\,\nabla u) = 1"
    domain = "unit square, cell centres, h = 1/N"
    boundary = "u = 0 on the edge"
    conservation = "the flux out of each of 4 x 4 squares is the source in it"
    conservation_short = "flux = source"
    symmetries = 8
    mean_operator = True
    published_names = {"a": ("thresh_a_data",), "u": ("thresh_p_data",)}
    published_scaling = {"offset": [7.5, 0.00782609], "scale": [5.0, 0.00869565]}
    channels = (
        Channel("a", "permeability a", "1", mean=7.5, std=4.5, is_input=True, positive=True),
        Channel("u", "pressure u", "1", mean=0.0058, std=0.0039, is_input=False, positive=True, basis=("sine", "sine")),
    )

    adjustable = (
        Parameter("permeability", "permeability", "Law of the permeability", choices=(TWO_PHASE, LOG_NORMAL)),
    )

    def default_parameters(self, resolution: int) -> dict[str, Value]:
        return {"permeability": TWO_PHASE}

    @property
    def smooth(self) -> bool:
        return dict(self.own_parameters).get("permeability") == LOG_NORMAL

    @property
    def near(self) -> float:
        """How far a permeability may be from what it is read as and still be that one."""
        return 0.0 if self.smooth else NEAR

    @property
    def reinterpretation(self) -> str:
        if self.smooth:
            return f"the permeability is below {LEAST:g}, and was read as that"
        return "the permeability is near neither 3 nor 12, and was read as the one that is nearer"

    def medium(self, a: Tensor) -> Tensor:
        """The permeability that a generated one stands for: the nearer phase, or, of a smooth medium, itself where it
        is positive. What is not finite stands for none, and stays NaN."""
        return a.clamp_min(LEAST).where(a.isfinite(), torch.nan) if self.smooth else two_phase(a)

    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        self.check_request(n, resolution, seed)
        field = neumann_field(n, resolution, seed)
        if self.smooth:
            deviation = np.sqrt(np.square(neumann_spectrum(resolution)).sum()) / resolution
            a = MEDIAN * np.exp(SPREAD * field / deviation)
        else:
            a = np.where(field >= 0, HIGH, LOW)
        u = np.stack([solve_banded(one) for one in a])
        return torch.from_numpy(np.stack([a, u], 1).astype(np.float32))

    def solve(self, fields: Tensor) -> Tensor:
        a = self.medium(fields[:, 0].detach().cpu().double())
        u = torch.stack([torch.from_numpy(solve_banded(one)) for one in a.numpy()])
        return torch.stack([a, u], 1).to(fields)

    def residual(self, fields: Tensor) -> Tensor:
        return divergence_flux(self.medium(fields[:, 0]), fields[:, 1], 1 / fields.shape[-1]) - 1

    def second_residual(self, fields: Tensor) -> Tensor:
        """Fluxes averaged along the faces in place of those at their midpoints."""
        return divergence_averaged(self.medium(fields[:, 0]), fields[:, 1], 1 / fields.shape[-1]) - 1

    def transform(self, fields: Tensor, k: int) -> Tensor:
        return square_symmetry(fields, k)

    def boundary_violation(self, fields: Tensor) -> Tensor:
        """RMS over the edge of the wall value that the flux balance of the adjoining cell implies: the wall value
        that would close the cell's equation is r h^2 / 2a, which is zero for solver data."""
        wall_value = self.residual(fields) / (2 * fields.shape[-1] ** 2 * self.medium(fields[:, 0]))
        return rms(edge_values(wall_value))

    def paper_residual(self, fields: Tensor) -> Tensor:
        h = 1 / fields.shape[-1]
        a, u = self.medium(fields[:, 0]), fields[:, 1]
        u_x, u_y = gradient_2nd(u, h, -1), gradient_2nd(u, h, -2)
        u_xx, u_yy = second_difference(u, h, -1), second_difference(u, h, -2)
        a_x, a_y = gradient_2nd(a, h, -1), gradient_2nd(a, h, -2)
        return -a * u_xx - a_x * u_x - a * u_yy - a_y * u_y - 1

    def balance(self, fields: Tensor) -> Tensor:
        """|flux out of a square - source in it|, summed over 4 x 4 squares, over the total source (1). The scheme is
        conservative: the flux out of a square is the sum of what leaves its cells."""
        return block_sums(self.residual(fields), PARTS).abs().sum((1, 2)) / fields.shape[-1] ** 2

    def reinterpreted(self, fields: Tensor) -> Tensor:
        a = fields[:, 0]
        return ((a - self.medium(a)).abs() > self.near).float().flatten(1).mean(1)

    def error_field(self, fields: Tensor) -> Tensor:
        """L^-1 r / sd(u), L = -(mean of a) lap, inverted in the sine basis of the cell-centred Dirichlet problem."""
        n = fields.shape[-1]
        one = 4 * n**2 * torch.sin(torch.pi * torch.arange(1, n + 1, dtype=torch.float64) / (2 * n)) ** 2
        eigenvalues = (THRESHOLD * (one[:, None] + one[None, :])).to(fields)
        modes = basis("sine", n).to(fields)
        return modes.T @ ((modes @ self.residual(fields) @ modes.T) / eigenvalues) @ modes / self.channels[1].std
