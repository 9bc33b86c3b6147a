"""Fields of one's own, measured like the samples of a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..common.checks import InputError
from ..common.text import percent, times
from ..pdes import PDE, get_pde
from .figures import CLOSED, boundary_rounding, by_sample, figures, floors, unconverged
from .own_data import split_samples
from .report import share
from .verdicts import REINTERPRETED

FLOOR_SAMPLES = 64
OFF = "conservation law off by"
AT_FLOOR = 2.0  # times the residual of solver data: what is below is told as equal


@dataclass(frozen=True)
class FieldCheck:
    """What was found: figures of all samples together (`row`), of each (`samples`), of solver data on that grid
    (`floor`), samples that were left out with the reason, notes in words; and the fields that were measured, with the
    solver's answer to their inputs, `[n, c, N, N]` in physical units of `pde`."""

    pde: PDE
    row: dict
    samples: list[dict]
    floor: dict
    left_out: list[tuple[int, str]]
    notes: list[str]
    fields: Tensor
    solution: Tensor

    @property
    def sentence(self) -> str:
        """The verdict."""
        row, n = self.row, self.row["n"]
        counted = "1 field" if n == 1 else f"{n} fields"
        if unconverged(row, self.floor):
            return f"{counted} with amplitudes that {self.pde.full_title} does not have: the figures say little."
        ratio = row["residual_rms"] / self.floor["residual_rms"]
        against = "as small as solver data's" if ratio <= AT_FLOOR else f"{times(ratio)} solver data's"
        residual = f"residual RMS {row['residual_rms']:.3g}, {against}"
        error = percent(row["solve_error_median"])
        told = f"{counted} of {self.pde.full_title}: {residual}; forward-solve error {error}"
        if row["conservation_rate"] is None:
            return f"{told}."
        return f"{told}; conservation in {row['conservation_rate'] * n:.0f} of {n}."

    def to_dict(self) -> dict:
        """Everything but the fields, ready for JSON."""
        out = [{"sample": k, "reason": why} for k, why in self.left_out]
        told = {"sentence": self.sentence, "row": self.row, "samples": self.samples, "floor": self.floor}
        return told | {"left_out": out, "notes": self.notes}

    def figures(self) -> list[tuple[str, str, str]]:
        """What is measured, in words: its name, of these fields, of solver data."""
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
        return [(title, write(self.row[key]), write(self.floor[key])) for title, (key, write) in shown.items()]

    def by_sample(self) -> list[tuple[str, str, str, str]]:
        """Of each sample: its number, residual RMS, forward-solve error, by how much the conservation law is off."""
        law = lambda one: percent(one["balance"]) if "balance" in one else "–"  # noqa: E731
        return [
            (str(one["sample"]), f"{one['residual_rms']:.3g}", percent(one["solve_error"]), law(one))
            for one in self.samples
        ]

    def table(self) -> str:
        """The figures as Markdown: all samples together beside solver data, then each sample."""
        heads = ("", "these fields", "solver data"), ("sample", "residual RMS", "forward-solve error", OFF)
        lines = [*_markdown(heads[0], self.figures()), "", *_markdown(heads[1], self.by_sample())]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |".replace("|  |", "| |")
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


@lru_cache(maxsize=8)
def data_floor(
    pde_name: str, resolution: int, parameters: tuple[tuple[str, float], ...] = (), against: int | None = None
) -> dict:
    """The figures of held-out solver data; `parameters` as `PDE.own_parameters`, `against` as in `figures`."""
    rounding = boundary_rounding(get_pde(pde_name))
    return floors(pde_name, resolution, FLOOR_SAMPLES, parameters, against) | {"boundary_rounding": rounding}


def measure_fields(pde: PDE, fields: Tensor, against: int | None = None) -> FieldCheck:
    """Measures `fields [n, c, N, N]` (physical units), `against` so many held-out ones where no statistics are kept
    (`figures`). Samples that cannot be measured are left out and named. Raises InputError where none is left."""
    good, bad = split_samples(fields, pde)
    _check_some(good, bad)
    resolution, fields = fields.shape[-1], fields[good].float()
    pde.check_request(len(good), resolution, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        solution = pde.solve(fields)
    each = by_sample(pde, fields, solution)
    finite = torch.stack(list(each.values())).isfinite().all(0)
    bad += [
        (k, "its values are so large that the solver overflows") for k, ok in zip(good, finite, strict=True) if not ok
    ]
    samples = [{"sample": k} | {name: x[i].item() for name, x in each.items()} for i, k in enumerate(good) if finite[i]]
    good, fields, solution = [one["sample"] for one in samples], fields[finite], solution[finite]
    _check_some(good, bad)
    row = {"pde": pde.name, "resolution": resolution, "n": len(good)} | figures(pde, fields, against)
    floor = data_floor(pde.name, resolution, pde.own_parameters, against)
    return FieldCheck(pde, row, samples, floor, bad, list(_notes(pde, row, floor, samples)), fields, solution)


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
