"""The Helmholtz equation, lap u + u = f on the unit square with u = 0 and f = 0 on the edge.

As for Poisson: vertices, h = 1/(N-1); f is the same Gaussian random field with its edge values set to zero, u
the exact solution of the 5-point scheme (sine transform).
"""

import numpy as np

from .base import Channel, register
from .poisson import Poisson


@register
class Helmholtz(Poisson):
    name = "helmholtz"
    title = "Helmholtz"
    equation = r"\nabla^2 u + u = f"
    boundary = "u = 0 and f = 0 on the edge"
    conservation = "the flux into each of 4 x 4 squares is the total of f − u in it"
    conservation_short = "flux = f − u"
    published_scaling = {"offset": [0.0, 0.0], "scale": [2.15, 0.028]}
    channels = (
        Channel("f", "source f", "1", mean=0.0, std=0.276, is_input=True, basis=("cosine-inner", "cosine-inner")),
        Channel("u", "solution u", "1", mean=0.0, std=0.0042, is_input=False, basis=("sine-vertices", "sine-vertices")),
    )
    shift = 1.0

    def _source(self, n: int, resolution: int, seed: int) -> np.ndarray:
        inner = super()._source(n, resolution, seed)[:, 1:-1, 1:-1]
        return np.pad(inner, [(0, 0), (1, 1), (1, 1)])
