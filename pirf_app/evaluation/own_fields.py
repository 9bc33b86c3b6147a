"""Fields of one's own, measured like the samples of a model."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..common.checks import InputError
from ..common.text import percent
from ..pdes import PDE
from .figures import CLOSED, boundary_rounding, figures, floors, residual_rms, unconverged
from .own_data import split_samples
from .report import share
from .verdicts import REINTERPRETED

FLOOR_SAMPLES = 64


@dataclass(frozen=True)
class FieldCheck:
    """What was found: figures of all samples together (`row`), of each (`samples`), of solver data on that grid
    (`floor`), samples that were left out with the reason, notes in words; and the fields that were measured, with the
    solver's answer to their inputs, `[n, c, N, N]` in physical units."""

    row: dict
    samples: list[dict]
    floor: dict
    left_out: list[tuple[int, str]]
    notes: list[str]
    fields: Tensor
    solution: Tensor

    def to_dict(self) -> dict:
        """Everything but the fields, ready for JSON."""
        out = [{"sample": k, "reason": why} for k, why in self.left_out]
        return {"row": self.row, "samples": self.samples, "floor": self.floor, "left_out": out, "notes": self.notes}

    def table(self) -> str:
        """The figures as Markdown: all samples together beside solver data, then each sample."""
        lines = ["| | these fields | solver data |", "|---|---|---|"]
        edge = self.floor["boundary_rounding"]
        at_edge = lambda value: "rounding" if value <= edge else f"{value:.3g}"  # noqa: E731
        plain = "{:.3g}".format
        shown = {
            "residual RMS": ("residual_rms", plain),
            "residual RMS, median of the samples": ("residual_median", plain),
            "residual RMS by another stencil": ("second_residual_rms", plain),
            "boundary RMS": ("boundary_rms", at_edge),
            "forward-solve error, median": ("solve_error_median", percent),
            "forward-solve error, 90th percentile": ("solve_error_p90", percent),
            "conservation": ("conservation_rate", share),
            "amplitude of each channel": ("amplitude", lambda values: " ".join(f"{a:.3f}" for a in values)),
            "spectrum error": ("spectrum_error", plain),
            "sliced Wasserstein distance": ("sliced_wasserstein", plain),
        }
        for title, (key, text) in shown.items():
            lines.append(f"| {title} | {text(self.row[key])} | {text(self.floor[key])} |")
        lines += ["", "| sample | residual RMS | forward-solve error | conservation law off by |", "|---|---|---|---|"]
        for one in self.samples:
            law = percent(one["balance"]) if "balance" in one else "–"
            told = f"{one['residual_rms']:.3g} | {percent(one['solve_error'])} | {law}"
            lines.append(f"| {one['sample']} | {told} |")
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def measure_fields(pde: PDE, fields: Tensor) -> FieldCheck:
    """Measures `fields [n, c, N, N]` (physical units). Samples that cannot be measured are left out and named. Raises
    InputError where none is left."""
    good, bad = split_samples(fields, pde)
    _check_some(good, bad)
    resolution, fields = fields.shape[-1], fields[good].float()
    pde.check_request(len(good), resolution, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        solution = pde.solve(fields)
    each = {
        "residual_rms": residual_rms(pde, fields),
        "solve_error": pde.solve_error(fields, solution),
        "boundary_rms": pde.boundary_violation(fields),
    }
    if pde.offers("balance"):
        each["balance"] = pde.balance(fields)
    finite = torch.stack(list(each.values())).isfinite().all(0)
    bad += [
        (k, "its values are so large that the solver overflows") for k, ok in zip(good, finite, strict=True) if not ok
    ]
    samples = [{"sample": k} | {name: x[i].item() for name, x in each.items()} for i, k in enumerate(good) if finite[i]]
    good, fields, solution = [one["sample"] for one in samples], fields[finite], solution[finite]
    _check_some(good, bad)
    row = {"pde": pde.name, "resolution": resolution, "n": len(good)} | figures(pde, fields)
    floor = floors(pde.name, resolution, FLOOR_SAMPLES, pde.own_parameters) | {
        "boundary_rounding": boundary_rounding(pde)
    }
    return FieldCheck(row, samples, floor, bad, list(_notes(pde, row, floor, samples)), fields, solution)


def _check_some(good: list[int], bad: list[tuple[int, str]]) -> None:
    if not good:
        raise InputError(f"there is no sample that can be measured: sample {bad[0][0]}: {bad[0][1]}")


def _notes(pde: PDE, row: dict, floor: dict, samples: list[dict]):
    if far := unconverged(row, floor):
        off = far.removeprefix("not converged: ")
        yield f"These do not look like {pde.title} fields in physical units ({off}): is another scaling meant?"
    if row["reinterpreted"] > REINTERPRETED:
        yield f"{percent(row['reinterpreted'])} of {pde.reinterpretation}."
    broken = [str(one["sample"]) for one in samples if one.get("balance", 0.0) > CLOSED]
    if broken:
        named = ", ".join(broken[:10]) + (" and others" if len(broken) > 10 else "")
        yield f"The conservation law ({pde.conservation}) does not close within {CLOSED:.0%} for sample {named}."
