"""The denoising preview: the grid of the comparison, drawn from a sampler's events."""

import time

import numpy as np
import torch

from ...evaluation.comparison import Preview, Settings
from ...evaluation.verdicts import method_title
from ...pdes import get_pde
from ...pdes.stencils import rms
from ..drawing import html
from ..drawing.panels import Shown, grids, log_residual, spread

PREVIEW_SECONDS = 0.12  # at most one picture in this time,
PREVIEW_SHARE = 3  # nor in less than so many times what the last one took: some solvers are slow


class Sketch:
    """Turns previews into the grid of the sample on show, on scales that stay put from step to step."""

    def __init__(self, settings: Settings, sample: int, view: int = 0):
        self.settings, self.sample, self.view = settings, min(sample, settings.n - 1), view
        self.pde = get_pde(settings.pde)
        self.rows: dict[str, tuple] = {}
        self.top = None
        self.step, self.cost, self.next = 0, 0.0, 0.0

    def add(self, event: Preview) -> bool:
        """Takes an event; True when all methods have reached a step that is worth a picture."""
        start = time.perf_counter()
        if event.method == self.settings.methods[0] and start >= self.next:
            self.step, self.cost = event.step, 0.0
        if event.step != self.step or not np.isfinite(event.fields).all():
            return False
        self.pde = get_pde(self.settings.pde, event.parameters)
        fields = torch.from_numpy(event.fields[self.sample][None])
        residual = self.pde.residual(fields)
        size = rms(self.pde.interior(residual)).item()
        self.rows[event.method] = fields[0].numpy(), residual[0].numpy(), self.pde.solve(fields)[0].numpy(), size
        end = time.perf_counter()
        self.cost += end - start
        complete = event.method == self.settings.methods[-1]
        if complete:
            self.next = end + max(PREVIEW_SECONDS, PREVIEW_SHARE * self.cost)
        return complete

    def html(self) -> str:
        rows = list(self.rows.values())
        names = [method_title(m) for m in self.rows]
        captions = {"residual": [f"RMS {row[3]:.3g}" for row in rows]}
        fields, residuals, solutions = ([row[k] for row in rows] for k in range(3))
        if self.top is None:
            self.top = (spread([log_residual(residuals[0])], 0.5, 1.0) or (0.0, 0.0))[1]
        shown = Shown(self.pde, names, fields, residuals, solutions, captions, (self.top - 5, self.top))
        return html.preview(grids(shown)[self.view])
