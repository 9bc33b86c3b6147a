"""`python -m pirf_app models ...`: list and verify the bundled checkpoints, write their manifest and model cards."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .cards import write_cards
from .checkpoints import CheckpointError, load_checkpoint
from .cli_edm import import_edm_command
from .library import Library
from .report import REPORT, in_words, read_report
from .sizes import megabytes

Report = Annotated[Path, typer.Option(help="report of evaluate that the figures come from")]
models = typer.Typer(no_args_is_help=True, help="The bundled checkpoints.")
models.command(name="import-edm")(import_edm_command)


@models.command(name="list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="print the manifest's entries")] = False) -> None:
    """List the bundled checkpoints."""
    entries = Library().manifest()
    if as_json:
        print(json.dumps(entries))
        return
    for entry in entries:
        told = f"{megabytes(entry['size']):>8}  {entry['sha256'][:12]}  {in_words(entry)}"
        print(f"{entry['name']:<20} {told}".rstrip())


@models.command()
def verify(files: Annotated[list[Path] | None, typer.Argument(help="files; none: the bundled ones")] = None) -> None:
    """Check hashes, metadata, keys, shapes, dtypes and finite values."""
    library = Library()
    jobs = [(path, None) for path in files or []] or [
        (library.folder / e["file"], e["sha256"]) for e in library.manifest()
    ]
    failures = []
    for path, sha256 in jobs:
        try:
            load_checkpoint(path, library.find_parent, sha256)
            print(f"{path.name}: good")
        except CheckpointError as error:
            failures.append(str(error))
    if failures:
        raise CheckpointError("; ".join(failures))


@models.command()
def manifest(report: Report = REPORT) -> None:
    """Write checkpoints/manifest.json afresh, and model cards, with the figures of a report. A checkpoint that the
    report does not tell of keeps the figures and the card that it has."""
    for entry in write_cards(Library(), read_report(report)["rows"] if report.exists() else []):
        print(entry["name"])
