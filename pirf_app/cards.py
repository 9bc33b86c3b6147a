"""Model cards: what a checkpoint is, how it was made, what it measures, and what it is not good for."""

import json

from .checkpoints import CheckpointInfo
from .pdes import get_pde
from .report import format_table

SHOWN_STEPS = 10
SUMMARY = ("residual_rms", "boundary_rms", "solve_error_median", "conservation_rate", "spectrum_error", "diversity")


def rows_of(info: CheckpointInfo, rows: list[dict]) -> list[dict]:
    same = (info.pde, info.resolution, info.method)
    return [row for row in rows if (row["pde"], row["resolution"], row["method"]) == same]


def card_figures(info: CheckpointInfo, rows: list[dict]) -> dict:
    """The figures for the manifest: those at 10 steps, by name; {} where they were not measured."""
    for row in rows_of(info, rows):
        if row["steps"] == SHOWN_STEPS:
            return {"steps": SHOWN_STEPS, "n": row["n"]} | {key: row[key] for key in SUMMARY}
    return {}


def model_card(entry: dict, info: CheckpointInfo, rows: list[dict], entries: list[dict]) -> str:
    """Markdown for one checkpoint: data, recipe, figures, limits."""
    pde, schedule = get_pde(info.pde), info.schedule
    tuned = info.parent is not None
    parent = next((e["name"] for e in entries if e["sha256"] == info.parent), (info.parent or "")[:12])
    measured = rows_of(info, rows)
    table = format_table(measured) if measured else "Not measured yet."
    made = (
        f"Tuned from `{parent}` with the physics reward (PIRF, arXiv 2509.20570); its weights make the steps from "
        f"noise level {info.handover:g} on, the parent's all steps before."
        if tuned
        else "Trained from scratch as a diffusion model of solver data (EDM, arXiv 2206.00364, with the data's "
        "covariance in the preconditioning)."
    )
    channels = ", ".join(f"{c.title} ({'input' if c.is_input else 'solution'})" for c in pde.channels)
    recipe = json.dumps(info.recipe, indent=1)
    return f"""# {entry["name"]}

{pde.title} at {info.resolution}x{info.resolution}: ${pde.equation}$, {pde.boundary}. Channels: {channels}.

{made}

- File: `{entry["file"]}`, {entry["size"] / 2**20:.1f} MB, SHA-256 `{entry["sha256"]}`
- Data: solver data of this repository ({pde.domain}), drawn from seeds of 2^62 and more
- Sampler: {schedule.solver}, sigma from {schedule.sigma_max:g} to {schedule.sigma_min:g}, rho {schedule.rho:g}
- Licence: MIT

## Figures

Measured by `python -m pirf_app evaluate`; what they mean is in the README.

{table}

## Recipe

```json
{recipe}
```

## Limits

For this equation, domain, resolution and distribution of inputs only. Samples solve the discretised equation
approximately: look at the residual and the forward-solve error above before relying on one. It is a demonstration of a
method, not a solver.
"""
