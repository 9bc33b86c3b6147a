"""Poisson's equation, lap u = f on the unit square with u = 0 on the edge.

Vertices, h = 1/(N-1); f is a Gaussian random field, u the exact solution of the 5-point scheme (sine transform).
"""

import numpy as np
import torch
from scipy.fft import dstn, idstn
from torch import Tensor
from torch.nn.functional import pad

from .base import PDE, Channel, register
from .random_fields import neumann_field
from .stencils import block_sums, laplacian_5pt, laplacian_9pt, replicate_pad, rms, square_symmetry

PARTS = 4  # of the square along each axis, for the conservation law


def edge_values(u: Tensor) -> Tensor:
    """The values on the four edges of `[n, h, w]`, each once: `[n, 2h + 2w - 4]`."""
    return torch.cat([u[:, 0], u[:, -1], u[:, 1:-1, 0], u[:, 1:-1, -1]], 1)


@register
class Poisson(PDE):
    name = "poisson"
    title = "Poisson"
    equation = r"\nabla^2 u = f"
    domain = "unit square, vertices, h = 1/(N-1)"
    boundary = "u = 0 on the edge"
    conservation = "the flux into each of 4 x 4 squares is the source in it"
    conservation_short = "flux = source"
    caveat = "Gaussian data: replaced by zero, the bundled baseline's network hardly changes a figure"
    vertices = (True, True)
    symmetries = 8
    published_scaling = {"offset": [0.0, 0.0], "scale": [2.5, 0.0273973]}
    channels = (
        Channel("f", "source f", "1", mean=0.0, std=0.29, is_input=True),
        Channel("u", "solution u", "1", mean=0.0, std=0.0042, is_input=False, basis=("sine-vertices", "sine-vertices")),
    )
    shift = 0.0  # the Helmholtz operator is lap + shift

    def spacing(self, fields: Tensor) -> float:
        return 1 / (fields.shape[-1] - 1)

    def _eigenvalues(self, resolution: int) -> np.ndarray:
        """Of the 5-point operator on the interior sine modes `[N-2, N-2]`."""
        m = np.arange(1, resolution - 1)
        one = -4 * (resolution - 1) ** 2 * np.sin(np.pi * m / (2 * (resolution - 1))) ** 2
        return one[:, None] + one[None, :] + self.shift

    def _invert(self, f: np.ndarray) -> np.ndarray:
        inner = idstn(dstn(f[..., 1:-1, 1:-1], 1, axes=(-2, -1)) / self._eigenvalues(f.shape[-1]), 1, axes=(-2, -1))
        return np.pad(inner, [(0, 0)] * (f.ndim - 2) + [(1, 1), (1, 1)])

    def _source(self, n: int, resolution: int, seed: int) -> np.ndarray:
        """Random f `[n, N, N]` float64."""
        return neumann_field(n, resolution, seed)

    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        self.check_request(n, resolution, seed)
        f = self._source(n, resolution, seed)
        return torch.from_numpy(np.stack([f, self._invert(f)], 1).astype(np.float32))

    def solve(self, fields: Tensor) -> Tensor:
        f = fields[:, 0].detach().cpu().double().numpy()
        u = torch.from_numpy(self._invert(f)).to(fields)
        return torch.stack([fields[:, 0], u], 1)

    def residual(self, fields: Tensor) -> Tensor:
        f, u = fields[:, 0], fields[:, 1]
        inner = laplacian_5pt(u, self.spacing(fields)) + self.shift * u[:, 1:-1, 1:-1] - f[:, 1:-1, 1:-1]
        return pad(inner, (1, 1, 1, 1))

    def second_residual(self, fields: Tensor) -> Tensor:
        """The compact 9-point Laplacian in place of the 5-point one."""
        f, u = fields[:, 0], fields[:, 1]
        inner = laplacian_9pt(u, self.spacing(fields)) + self.shift * u[:, 1:-1, 1:-1] - f[:, 1:-1, 1:-1]
        return pad(inner, (1, 1, 1, 1))

    def transform(self, fields: Tensor, k: int) -> Tensor:
        return square_symmetry(fields, k)

    def interior(self, field: Tensor) -> Tensor:
        return field[:, 1:-1, 1:-1]

    def boundary_violation(self, fields: Tensor) -> Tensor:
        return rms(edge_values(fields[:, 1]))

    def paper_residual(self, fields: Tensor) -> Tensor:
        f, u = fields[:, 0], fields[:, 1]
        return laplacian_5pt(replicate_pad(u), self.spacing(fields)) + self.shift * u - f

    def balance(self, fields: Tensor) -> Tensor:
        """Flux of grad u into a square against the source in it: |flux - source|, summed over 4 x 4 squares, over the
        sum of |source|. Over the whole domain the source is nearly zero, which says little.

        The squares' control volumes share the interior vertices; the flux into one is the sum of the 5-point Laplacian
        over its vertices."""
        left = block_sums(self.interior(self.residual(fields)), PARTS)
        source = block_sums(self.interior(fields[:, 0] - self.shift * fields[:, 1]), PARTS)
        return left.abs().sum((1, 2)) / source.abs().sum((1, 2)).clamp_min(1e-12)

    def error_field(self, fields: Tensor) -> Tensor:
        r = self.interior(self.residual(fields))
        basis, eigenvalues = self._sine_basis(fields)
        error = basis @ ((basis @ r @ basis) / eigenvalues) @ basis / self.channels[1].std
        return pad(error, (1, 1, 1, 1))

    def _sine_basis(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal, symmetric sine basis `[N-2, N-2]` of the interior vertices, and the operator's eigenvalues."""
        n = like.shape[-1] - 1
        m = torch.arange(1, n, dtype=torch.float64)
        basis = np.sqrt(2 / n) * torch.sin(torch.pi * m[:, None] * m[None, :] / n)
        eigenvalues = torch.from_numpy(self._eigenvalues(n + 1))
        return basis.to(like), eigenvalues.to(like)
