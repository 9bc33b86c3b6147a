"""`python -m pirf_app ...`: sample, evaluate, generate data, pre-train, fine-tune, list and verify models.

Bad input ends with one sentence on standard error and exit code 2; progress goes to standard error as well, so that
standard output carries results only.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ..common.checks import InputError, check_seed
from ..common.files import write_arrays, write_json
from ..common.parallel import device_name, team
from ..diffusion.network import NetworkConfig
from ..diffusion.sampler import SOLVERS, check_steps
from ..evaluation.exports import write_first_view
from ..evaluation.figures import (
    PRECISION,
    check_comparable,
    draw_together,
    environment,
    evaluate,
    figures,
    flags,
    floors,
)
from ..evaluation.report import format_table
from ..models.library import Library
from ..pdes import get_pde, pde_names
from ..training.pretraining import PretrainConfig
from ..training.run_state import StoppedError
from .benchmark import benchmark
from .check import check
from .finetune import finetune
from .hub import deploy, publish, pull
from .models import models
from .options import (
    Device,
    Parameters,
    Parents,
    check_count,
    check_folder,
    check_memory,
    named_values,
    say,
    split,
    whole_numbers,
    with_solver,
)
from .pretrain import pretrain
from .reports import reference, statistics, table
from .tier import tier

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(models, name="models")
app.command()(check)
app.command()(pretrain)
app.command()(finetune)
app.command()(table)
app.command()(reference)
app.command()(statistics)
app.command()(tier)
app.command()(benchmark)
app.command()(deploy)
models.command()(pull)
models.command()(publish)

Pde = Annotated[str, typer.Option(help=f"benchmark: {', '.join(pde_names())}")]
Seed = Annotated[int, typer.Option(help="whole number from 0 to 2^63 - 1")]
Out = Annotated[Path, typer.Option(help="file to write")]
_PRETRAIN, _NETWORK = PretrainConfig(), NetworkConfig()


@app.command()
def sample(
    pde: Pde = "darcy",
    method: Annotated[str, typer.Option(help="method, or the path of a checkpoint file")] = "pirf",
    steps: int = 10,
    n: int = 4,
    seed: Seed = 0,
    out: Out = Path("out.npz"),
    parent: Parents = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Draw fields and write them with their residual and the solver's solution to an .npz file."""
    check_steps(steps)
    check_count(n)
    check_folder(out)
    workers = team(device)
    checkpoint = Library().with_parents(parent).resolve(pde, method)
    problem = checkpoint.info.benchmark
    checkpoint.denoiser.to(workers.device)
    (found,) = draw_together([checkpoint], steps, n, seed, workers=workers)
    if not workers.main:
        return
    drawn = found.fields
    row = checkpoint.info.label | {"steps": steps, "nfe": found.nfe, "n": n, "seconds": found.seconds}
    row |= {"device": device_name(workers.device), "precision": PRECISION} | figures(problem, drawn)
    meta = row | {"seed": seed, "sha256": checkpoint.sha256, "channels": [c.name for c in problem.channels]}
    write_arrays(
        out,
        fields=drawn.numpy(),
        residual=problem.residual(drawn).numpy(),
        solution=problem.solve(drawn).numpy(),
        noise_seed=np.int64(seed),
        meta=np.array(json.dumps(meta)),
    )
    say(f"wrote {out}")
    print(json.dumps(row) if as_json else format_table([row]))


@app.command(name="evaluate")
def evaluate_command(
    pde: Annotated[str, typer.Option(help="benchmarks separated by commas, or all")] = "all",
    methods: Annotated[str, typer.Option(help="methods or checkpoint files separated by commas")] = "base,pirf",
    steps: Annotated[str, typer.Option(help="step counts separated by commas")] = "5,10,20,40,80",
    n: Annotated[int, typer.Option(help="samples of every noise seed")] = 64,
    seed: Annotated[str, typer.Option(help="noise seeds separated by commas")] = "0",
    json_path: Annotated[Path | None, typer.Option("--json", help="report file to write")] = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="run the networks in bfloat16")] = False,
    solver: Annotated[
        str | None, typer.Option(help=f"{', '.join(SOLVERS)}, instead of what each checkpoint recommends")
    ] = None,
    parent: Parents = None,
    device: Device = "auto",
) -> None:
    """Measure checkpoints: residual, forward-solve error, conservation, distribution; floors beside them."""
    counts = [check_steps(count) for count in whole_numbers("steps", steps)]
    seeds = [check_seed(number) for number in whole_numbers("seed", seed)]
    check_count(n * len(seeds))
    if json_path:
        check_folder(json_path)
    library, names, workers = Library().with_parents(parent), split("pde", pde, pde_names()), team(device)
    chosen = []
    for name in names:
        known = library.methods(name, get_pde(name).default_resolution)
        found = [library.resolve(name, method) for method in split("methods", methods, known)]
        check_comparable([checkpoint.info for checkpoint in found])
        chosen += found
    rows, levels = [], {}
    order = {(c.info.pde, c.info.method): i for i, c in enumerate(chosen)}
    for name in names:
        members = [with_solver(c, solver) for c in chosen if c.info.pde == name]
        for checkpoint in members:
            checkpoint.denoiser.to(workers.device).autocast = bfloat16
        first = members[0].info
        levels[name] = floors(name, first.resolution, n * len(seeds), first.parameters)
        for count in counts:
            found = evaluate(members, count, n, seeds, workers)
            for row in found:
                row["flags"] = flags(row, found[0], levels[name])
                if workers.main:
                    say(format_table([row]).splitlines()[-1])
            rows += found
            rows.sort(key=lambda row: (order[row["pde"], row["method"]], row["steps"]))
            if workers.main and json_path:  # after every step count: what was measured is kept if the rest is cut off
                conditions = environment(workers.device) | {"seeds": seeds}
                conditions |= {"precision": "bfloat16"} if bfloat16 else {}
                write_json(json_path, {"rows": rows, "floors": levels, "environment": conditions})
    if workers.main:
        print(format_table(rows, levels))


@app.command()
def data(
    pde: Pde = "darcy",
    n: int = 8,
    resolution: int = 64,
    seed: Seed = 0,
    out: Out = Path("data.npz"),
    parameter: Parameters = None,
) -> None:
    """Generate solver data and write it with its residual to an .npz file."""
    check_folder(out)
    problem = get_pde(pde, named_values(parameter))
    problem.check_request(check_count(n), resolution, seed)
    check_memory(n, resolution)
    made = problem.generate(n, resolution, seed)
    meta = {"pde": pde, "resolution": resolution, "seed": seed, "channels": [c.name for c in problem.channels]}
    meta = np.array(json.dumps(meta))
    write_arrays(out, fields=made.numpy(), residual=problem.residual(made).numpy(), meta=meta)
    print(f"wrote {n} {pde} fields to {out}")


@app.command(name="first-view")
def first_view(pde: Pde = "darcy", steps: int = 10, n: int = 4, seed: Seed = 0) -> None:
    """Compute the comparison that the page opens on (assets/first_view.npz)."""
    print(write_first_view(Library(), pde=pde, steps=steps, n=n, seed=seed).sentence)


def out_of_memory(error: Exception) -> bool:
    """Whether memory was asked for and not given. torch says so of the CPU's in words only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0; 2 after one sentence on standard error; 128 and the number of
    the signal that ended a training run."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except InputError as error:
        message = str(error)
    except typer.TyperException as error:
        message = error.format_message()
    except typer.Abort:
        message = "stopped"
    except typer.Exit as stop:
        return stop.exit_code
    except StoppedError as stop:
        say(str(stop))
        return 128 + stop.number
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except ValueError as error:
        message = str(error)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        message = "there is not enough memory for this here: ask for less at once (samples, pool, batch, chunk, K)"
    say("Error: " + " ".join(message.split()))
    return 2
