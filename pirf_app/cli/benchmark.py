"""`python -m pirf_app benchmark`: speed and memory of sampling and fine-tuning on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from ..common.checks import InputError, check_whole
from ..common.files import write_json
from ..common.parallel import alone_on
from ..common.text import megabytes
from ..diffusion.network import SUFFIXES
from ..diffusion.sampler import check_steps
from ..evaluation.figures import environment
from ..models.library import Library
from ..pdes import pde_names
from ..tier.benchmark import fine_tuning, sampling
from .options import Device, check_count, check_folder, say, split, whole_numbers


def peak(row: dict) -> str:
    return f"peak memory {'unknown' if row['peak_bytes'] is None else megabytes(row['peak_bytes'])}"


def benchmark(
    pde: Annotated[str, typer.Option(help="benchmarks to sample, separated by commas, or all")] = "all",
    steps: Annotated[str, typer.Option(help="step counts separated by commas")] = "10,20",
    n: Annotated[int, typer.Option(help="samples drawn at once")] = 4,
    tune: Annotated[str, typer.Option(help="benchmarks to fine-tune, separated by commas, all, or none")] = "darcy",
    last_steps: Annotated[str, typer.Option(help="values of K separated by commas")] = "1,2",
    trainable: Annotated[str, typer.Option(help=f"layers to train: all of, or some of {','.join(SUFFIXES)}")] = "all",
    batch: Annotated[int, typer.Option(help="samples an update")] = 8,
    device: Device = "auto",
    json_path: Annotated[Path | None, typer.Option("--json", help="file to write")] = None,
) -> None:
    """Measure sampling (seconds, peak memory) per benchmark and step count, and fine-tuning (updates a second, peak
    memory) per K and trained layers. At the default resolution, with the base checkpoints."""
    chosen = alone_on(device).device
    counts = [check_steps(count) for count in whole_numbers("steps", steps)]
    depths = [check_whole("last-steps", k, 1, 20) for k in whole_numbers("last-steps", last_steps)]
    # "all" is itself a suffix of the network, so here it stands for every one of them.
    layers = split("trainable", trainable, list(SUFFIXES))
    if unknown := set(layers) - set(SUFFIXES):
        raise InputError(f"trainable must be of {', '.join(SUFFIXES)}, not {sorted(unknown)[0]!r}")
    check_count(n)
    check_whole("batch", batch, 1, 1024)
    if json_path:
        check_folder(json_path)
    library = Library()
    drawn = [(library.load(name, "base"), count) for name in split("pde", pde, pde_names()) for count in counts]
    tuned = [] if tune == "none" else [library.load(name, "base") for name in split("tune", tune, pde_names())]
    report = {"sampling": [], "finetuning": [], "environment": environment(chosen)}
    say(f"on {report['environment']['device']}, {report['environment']['threads']} threads")
    for checkpoint, count in drawn:
        row = sampling(checkpoint, count, n, chosen)
        report["sampling"].append(row)
        seconds = f"{row['seconds']:.3f} s, {row['seconds'] / n:.4f} s a sample"
        print(f"{row['pde']:<12}{count:>3} steps, {n} samples: {seconds}, {peak(row)}")
    for checkpoint in tuned:
        for k in depths:
            for part in layers:
                row = fine_tuning(checkpoint, k, part, batch, chosen)
                report["finetuning"].append(row)
                rate = f"{row['updates_per_second']:.2f} updates a second of {batch}"
                print(f"{row['pde']:<12}K = {k}, {part:<8}: {rate}, {peak(row)}")
    if json_path:
        write_json(json_path, report)
        say(f"wrote {json_path}")
