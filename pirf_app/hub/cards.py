"""Model cards: what a checkpoint is, how it was made, what it measures, and what it is not good for."""

import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.repocard_data import CardData

from ..common.files import write_text
from ..common.text import megabytes
from ..evaluation.report import format_table
from ..methods.registry import METHODS
from ..models.checkpoint import CheckpointError, CheckpointInfo, file_sha256, read_info
from ..models.library import Library
from ..models.manifest import Entry

SHOWN_STEPS = 10
SUMMARY = ("residual_rms", "boundary_rms", "solve_error_median", "conservation_rate", "spectrum_error", "diversity")
TASK = {"type": "unconditional-image-generation", "name": "PDE field generation"}
TAGS = ["physics", "pde", "diffusion", "physics-informed", "reward-fine-tuning", "arxiv:2509.20570"]


def card_name(entry: Entry) -> str:
    """The file of a model's card in a repository."""
    return f"{Path(entry['file']).stem}.md"


def rows_of(info: CheckpointInfo, rows: list[dict]) -> list[dict]:
    wanted = {"parameters": {}} | info.label
    return [row for row in rows if all(row.get(key, {}) == value for key, value in wanted.items())]


def card_figures(info: CheckpointInfo, rows: list[dict]) -> dict:
    """The figures for the manifest: those at 10 steps, by name; {} where they were not measured."""
    for row in rows_of(info, rows):
        if row["steps"] == SHOWN_STEPS:
            return {"steps": SHOWN_STEPS, "n": row["n"]} | {key: row[key] for key in SUMMARY}
    return {}


def model_card(entry: Entry, info: CheckpointInfo, rows: list[dict], entries: list[Entry]) -> str:
    """Markdown for one checkpoint: data, recipe, figures, limits."""
    pde, schedule = info.benchmark, info.schedule
    tuned = info.parent is not None
    parent = next((e["name"] for e in entries if e["sha256"] == info.parent), (info.parent or "")[:12])
    measured = rows_of(info, rows)
    table = format_table(measured) if measured else "Not measured yet."
    known = METHODS.get(info.method)
    how = f" {known.does} ({known.title}, {known.source})" if known else ""
    made = (
        f"Tuned from `{parent}`{how}; its weights make the steps from noise level {info.handover:g} on, the parent's "
        "all steps before."
        if tuned
        else "Trained from scratch as a diffusion model of solver data (EDM, arXiv 2206.00364, with the data's "
        "covariance in the preconditioning)."
    )
    channels = ", ".join(f"{c.title} ({'input' if c.is_input else 'solution'})" for c in pde.channels)
    recipe = json.dumps(info.recipe, indent=1)
    return f"""# {entry["name"]}

{pde.full_title} at {info.resolution}x{info.resolution}: ${pde.equation}$, {pde.boundary}. Channels: {channels}.

{made}

- File: `{entry["file"]}`, {megabytes(entry["size"])}, SHA-256 `{entry["sha256"]}`
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


def write_cards(
    library: Library, rows: list[dict], skip: Callable[[CheckpointError], None] | None = None
) -> list[Entry]:
    """Lists the checkpoints of a folder afresh, with the figures of `rows` and a card each, and returns the entries.
    A file that `rows` do not tell of keeps the figures and the card that it has; for `skip` see `write_manifest`."""
    known = {}
    for entry in library.manifest():
        path = library.folder / entry["file"]
        if path.exists() and file_sha256(path) == entry["sha256"]:
            known[entry["pde"], entry["resolution"], entry["method"]] = entry["figures"]
    kept = lambda info: known.get((info.pde, info.resolution, info.method), info.figures)  # noqa: E731
    entries = library.write_manifest(lambda info: card_figures(info, rows) or kept(info), skip)
    for entry in entries:
        info, card = read_info(library.folder / entry["file"]), library.folder / f"{entry['name']}.md"
        if rows_of(info, rows) or not card.exists() or entry["sha256"] not in card.read_text():
            write_text(card, model_card(entry, info, rows, entries))
    return entries


def repository_card(
    repo: str, members: list[tuple[Entry, CheckpointInfo]], rows: list[dict], floors: dict[str, dict]
) -> str:
    """The README.md of a model repository: licence, library, tags and metrics as metadata, the benchmark's table, and
    how to use it. `members` are manifest entries with what their files say."""
    entries = [entry for entry, _ in members]
    index = [found for entry, info in members if (found := model_index(entry, info, rows))]
    metrics = sorted({metric["type"] for model in index for r in model["results"] for metric in r["metrics"]})
    values = {"license": "mit", "library_name": "pirf", "tags": TAGS, "pipeline_tag": TASK["type"]}
    metadata = CardData(**values | {"metrics": metrics, "model-index": index} if index else values)
    ours = [row for row in rows if any(row in rows_of(info, rows) for _, info in members)]
    table = format_table(ours, floors) if ours else "Not measured with `python -m pirf_app evaluate` yet."
    listed = "\n".join(
        f"| [`{e['name']}`]({card_name(e)}) | {i.benchmark.full_title} | {i.method} | {i.resolution}x{i.resolution} "
        f"| {megabytes(e['size'])} | `{e['sha256'][:12]}` |"
        for e, i in members
    )
    return f"""---
{metadata.to_yaml()}
---

# PIRF checkpoints: {repo}

Diffusion models of PDE fields, and models fine-tuned from them with a physics reward (PIRF,
[arXiv 2509.20570](https://arxiv.org/abs/2509.20570)). A tuned file holds the changed tensors only and is read on top of
its parent; `manifest.json` lists every file with its SHA-256. Never a pickle.

| | benchmark | method | grid | size | SHA-256 |
|---|---|---|---|---|---|
{listed}

## Use

From a checkout of the app, `python -m pirf_app models pull {repo}` fetches and verifies {
        "it" if len(entries) == 1 else "them"
    }; with
`PIRF_MODEL_REPO={repo} python app.py` the page offers them beside its own.

## Figures

Fields drawn from noise, measured against a real solver; "solver data" is the floor that held-out data reaches.

{table}

## Limits

For these equations, domains, resolutions and distributions of inputs only. Samples solve the discretised equation
approximately. A demonstration of a method, not a solver.
"""


def model_index(entry: Entry, info: CheckpointInfo, rows: list[dict]) -> dict:
    """A model's figures as the Hub's `model-index` takes them; {} where there are none."""
    figures = card_figures(info, rows) or entry["figures"]
    steps = figures.get("steps")
    metrics = [
        {"type": name, "name": f"{name.replace('_', ' ')}{f', {steps} steps' if steps else ''}", "value": figures[name]}
        for name in SUMMARY
        if isinstance(figures.get(name), int | float)
    ]
    grid = f"{info.resolution}x{info.resolution}"
    data = {"type": info.pde, "name": f"{info.benchmark.full_title}, {grid}, solver data"}
    return {"name": entry["name"], "results": [{"task": TASK, "dataset": data, "metrics": metrics}]} if metrics else {}
