"""`python -m pirf_app models ...`: list and verify checkpoints, write their manifest and model cards."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.checks import InputError
from ..common.text import megabytes
from ..evaluation.report import REPORT, in_words, read_report
from ..hub.cards import write_cards
from ..models.checkpoint import CheckpointError, sentences
from ..models.library import BUNDLED, Library
from .edm import import_edm_command
from .options import Parents, say

models = typer.Typer(no_args_is_help=True, help="The bundled checkpoints, or those in the folder PIRF_CHECKPOINTS.")
models.command(name="import-edm")(import_edm_command)


@models.command(name="list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="print the manifest's entries")] = False) -> None:
    """List the checkpoints."""
    entries = Library().manifest()
    if as_json:
        print(json.dumps(entries))
        return
    for entry in entries:
        told = f"{megabytes(entry['size']):>8}  {entry['sha256'][:12]}  {in_words(entry)}"
        print(f"{entry['name']:<20} {told}".rstrip())


@models.command()
def verify(
    files: Annotated[list[Path] | None, typer.Argument(help="files; none: those that the manifest lists")] = None,
    parent: Parents = None,
) -> None:
    """Check hashes, metadata, keys, shapes, dtypes and finite values."""
    library = Library().with_parents(parent)
    jobs = [(path, None) for path in files or []] or [
        (library.folder / e["file"], e["sha256"]) for e in library.manifest()
    ]
    failures = []
    for path, sha256 in jobs:
        try:
            library.load_file(path, sha256)
            print(f"{path.name}: good")
        except CheckpointError as error:
            failures.append(error)
    if failures:
        raise CheckpointError("; ".join(sentences(failures)))


@models.command()
def manifest(
    report: Annotated[
        Path | None,
        typer.Option(help="report of evaluate that the figures come from (default, of the bundled ones: the app's)"),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="folder of your own (default: that of the checkpoints)")] = None,
) -> None:
    """Write a folder's manifest.json afresh, and model cards, with the figures of a report. A checkpoint that the
    report does not tell of keeps the figures and the card that it has."""
    library = Library(folder) if folder else Library()
    if not library.folder.is_dir():
        raise InputError(f"there is no folder {library.folder}")
    if report is None and library.folder == BUNDLED and REPORT.exists():
        report = REPORT
    rows = read_report(report)["rows"] if report else []
    skip = (lambda error: say(f"left out: {error}")) if folder else None
    for entry in write_cards(library, rows, skip):
        print(entry["name"])
