"""The denoising preview: the grid of the comparison, drawn from a sampler's events."""

import time

import numpy as np
import torch

from ..comparison import Preview, Settings, method_title
from ..pdes import get_pde
from . import parts
from .panels import build_grid, log_residual

PREVIEW_SECONDS = 0.12  # at most one picture in this time


class Sketch:
    """Turns previews into the grid of the sample on show, on scales that stay put from step to step."""

    def __init__(self, settings: Settings, sample: int):
        self.settings, self.sample, self.pde = settings, min(sample, settings.n - 1), get_pde(settings.pde)
        self.rows: dict[str, tuple] = {}
        self.top = None
        self.step, self.drawn = 0, -PREVIEW_SECONDS

    def add(self, event: Preview) -> bool:
        """Takes an event; True when all methods have reached a step that is worth a picture."""
        if event.method == self.settings.methods[0] and time.perf_counter() - self.drawn >= PREVIEW_SECONDS:
            self.step = event.step
        if event.step != self.step:
            return False
        fields = torch.from_numpy(event.fields[self.sample][None])
        residual = self.pde.residual(fields)
        rms = self.pde.interior(residual).square().mean().sqrt().item()
        self.rows[event.method] = fields[0].numpy(), residual[0].numpy(), self.pde.solve(fields)[0].numpy(), rms
        complete = event.method == self.settings.methods[-1]
        self.drawn = time.perf_counter() if complete else self.drawn
        return complete

    def html(self) -> str:
        rows = list(self.rows.values())
        names = [method_title(m) for m in self.rows]
        captions = {"residual": [f"RMS {row[3]:.3g}" for row in rows]}
        fields, residuals, solutions = ([row[k] for row in rows] for k in range(3))
        if self.top is None:
            self.top = float(np.nanmax(log_residual(self.pde, residuals[0])))
        scale = self.top - 5, self.top
        return parts.preview(build_grid(self.pde, names, fields, residuals, solutions, captions, scale))
