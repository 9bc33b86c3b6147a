"""`python -m pirf_app tier`: a resolution tier of one benchmark in a stated number of minutes."""

import os
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from ..common.checks import InputError, check_number
from ..common.text import megabytes
from ..diffusion.prior import PriorConfig
from ..models.library import BUNDLED
from ..pdes import get_pde, pde_names
from ..tier.data import PART
from ..tier.plan import LIMIT, MAX_WORKERS, Options, bases, checkpoint_bytes, make_plan, parameters, table
from ..tier.run import Tier, measure
from .options import say

EVERY = 5.0  # seconds between two lines of progress


def tier(
    pde: Annotated[str, typer.Option(help=f"benchmark: {', '.join(pde_names())}")],
    resolution: int = 128,
    minutes: Annotated[float, typer.Option(help="from the first field to the report")] = 30.0,
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    out: Annotated[Path, typer.Option(help="folder to write the checkpoints, their cards and manifest to")] = BUNDLED,
    folder: Annotated[Path | None, typer.Option(help="the run's folder (default: runs/tier-PDE-RESOLUTION)")] = None,
    workers: Annotated[int | None, typer.Option(help="solver processes (default: one for each core)")] = None,
    megabytes: Annotated[float, typer.Option(help="largest checkpoint to make")] = LIMIT / 1e6,
    seed: Annotated[int, typer.Option(help="whole number from 0 to 2^63 - 1")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on with what the run's folder holds")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
) -> None:
    """Make a benchmark's data, pre-train, fine-tune and evaluate within so many minutes, on a GPU and without a
    network: PDE-RESOLUTION-base and -pirf checkpoints. A killed run goes on with --resume."""
    if device not in ("cuda", "cpu"):
        raise InputError(f"the device must be cuda or cpu, not {device!r}")
    limit = int(1e6 * check_number("megabytes", megabytes, 0.01, 1000))
    workers = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    options = Options(pde, resolution, minutes, device, workers, seed, limit)
    folder = folder or Path("runs") / f"tier-{pde}-{resolution}"
    if dry_run:
        print(plan_text(options))
        return
    run, shown, stage = Tier(options, out, folder, resume), 0.0, None
    if shutil.disk_usage(next(p for p in (folder, *folder.absolute().parents) if p.exists())).free < 2**30:
        raise InputError(f"less than 1 GB is free for {folder}")
    for step in run.run():
        if step.stage != stage or time.monotonic() - shown > EVERY:
            say(f"{step.seconds:6.0f} s  {step.stage:<9} {step.done} of {step.total}  {step.note}")
            shown, stage = time.monotonic(), step.stage
    print(step.note)


def plan_text(options: Options) -> str:
    """The plan as a table, and the rates that it rests on."""
    problem, rates = get_pde(options.pde), measure(options)
    plan = make_plan(problem, options, rates)
    network = plan.network
    prior = PriorConfig(plan.prior_box, bases(problem))
    size = f"{options.resolution}x{options.resolution}"
    how = "measured" if rates.measured else f"assumed: there is no {options.device} here to measure"
    lines = [
        f"{options.pde} at {size} in {options.minutes:g} minutes on {options.device} with {options.workers} processes",
        f"network: {parameters(network) / 1e6:.2f} million parameters, {network.base_channels} base channels, "
        f"multipliers {', '.join(map(str, network.multipliers))}; "
        f"checkpoint {megabytes(checkpoint_bytes(network, prior))}",
        f"rates: solver {1e3 * rates.part / PART:.3g} ms a field and {1e3 * rates.solve:.3g} ms a solve on one core "
        f"(measured); network {rates.flops / 1e12:.3g} TFLOP/s ({how})",
        "",
        f"{'stage':<10}{'TFLOP':>12}{'MB':>10}{'minutes':>9}  work",
    ]
    rows = table(problem, options, rates, plan)
    for row in rows:
        lines.append(
            f"{row['stage']:<10}{row['flops'] / 1e12:>12.4g}{row['bytes'] / 1e6:>10.4g}{row['minutes']:>9.2f}  "
            f"{row['work']}"
        )
    total = sum(row["minutes"] for row in rows)
    lines.append(f"{'total':<10}{sum(row['flops'] for row in rows) / 1e12:>12.4g}{'':>10}{total:>9.2f}")
    return "\n".join(lines)
