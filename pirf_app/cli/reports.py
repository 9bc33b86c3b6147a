"""`python -m pirf_app table`, `reference` and `statistics`: reports as tables, and what they compare with."""

from pathlib import Path
from typing import Annotated

import typer

from ..common.checks import InputError
from ..common.files import write_json, write_text
from ..evaluation.figures import residual_rms
from ..evaluation.report import SUMMARY, TABLE, format_summary, format_table, merge, read_report, replace_tables
from ..evaluation.statistics import FOLDER, REFERENCE_SEED, Statistics, reference_path
from ..pdes import get_pde, pde_names
from .options import Parameters, check_count, check_folder, check_memory, named_values, split, whole_numbers


def table(
    reports: Annotated[
        list[Path], typer.Argument(help="report files that evaluate wrote; of two, the later one counts")
    ],
    json_path: Annotated[Path | None, typer.Option("--json", help="write them as one report, too")] = None,
    steps: Annotated[str | None, typer.Option(help="only these step counts, separated by commas")] = None,
    into: Annotated[Path | None, typer.Option(help="Markdown file whose tables to replace")] = None,
) -> None:
    """Print reports as one Markdown table."""
    report = merge([read_report(path) for path in reports])
    if json_path:
        write_json(check_folder(json_path), report)
    rows = report["rows"]
    if steps:
        counts = whole_numbers("steps", steps)
        rows = [row for row in rows if row["steps"] in counts]
    made = format_table(rows, report["floors"])
    if into:
        write_text(into, replace_tables(into, {TABLE: made, SUMMARY: format_summary(report["rows"])}))
    print(made)


def reference(
    pde: Annotated[str, typer.Option(help="benchmarks separated by commas, or all")] = "all",
    n: int = 4096,
    resolution: int = 64,
    out: Annotated[Path, typer.Option(help="folder to write to")] = FOLDER,
) -> None:
    """Measure held-out solver data: the statistics in assets/reference that evaluate compares with."""
    if n < 2:
        raise InputError(f"statistics need at least 2 fields, not {n}")
    out.mkdir(parents=True, exist_ok=True)
    for name in split("pde", pde, pde_names()):
        problem = get_pde(name)
        problem.check_request(check_count(n), resolution, REFERENCE_SEED)
        check_memory(n, resolution)
        path = out / reference_path(name, resolution).name
        Statistics.of(problem, problem.generate(n, resolution, REFERENCE_SEED)).save(path)
        print(f"wrote {path}")


def statistics(
    pde: Annotated[str, typer.Option(help=f"benchmark: {', '.join(pde_names())}")],
    n: Annotated[int, typer.Option(help="solver fields to measure")] = 256,
    resolution: int = 64,
    seed: int = REFERENCE_SEED,
    parameter: Parameters = None,
) -> None:
    """Print what a benchmark's file says of its data: mean and deviation of every channel, and the residual that solver
    data leaves."""
    problem = get_pde(pde, named_values(parameter))
    problem.check_request(check_count(n), resolution, seed)
    check_memory(n, resolution)
    fields = problem.generate(n, resolution, seed)
    print("| channel | mean | deviation | least | greatest |\n|---|---|---|---|---|")
    for channel, values in zip(problem.channels, fields.double().unbind(1), strict=True):
        numbers = (values.mean(), values.std(), values.min(), values.max())
        print(f"| {channel.name} | " + " | ".join(f"{number:.4g}" for number in numbers) + " |")
    print(f"\nresidual RMS of solver data: {residual_rms(problem, fields).max():.2g} at most")
