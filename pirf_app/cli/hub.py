"""`python -m pirf_app models pull|publish` and `deploy`: models from and to the Hub, the app to a Space."""

from typing import Annotated

import typer

from ..evaluation.report import REPORT, read_report
from ..hub.client import Transfer
from ..hub.collection import HubLibrary
from ..hub.fetch import fetch
from ..hub.publish import HARDWARE, deploy_plan, publish_plan, send
from ..models.checkpoint import CheckpointError
from ..models.library import BUNDLED, Library
from .options import Parents, say

DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would go where; no request is made")]
Private = Annotated[bool, typer.Option("--private", help="if the repository is new, only its owner can see it")]


def pull(repo: Annotated[str, typer.Argument(help="OWNER/NAME or OWNER/NAME@REVISION")]) -> None:
    """Fetch a repository of checkpoints into the Hub's cache and verify every file against its manifest."""
    transfer = Transfer()
    snapshot = fetch(repo, transfer)
    if snapshot.note:
        say(snapshot.note)
    found = HubLibrary(snapshot, Library())
    say(f"{snapshot.repo} at {snapshot.commit}: {transfer.progress()} fetched" if transfer.total else "already here")
    for entry in found.manifest():
        print(f"{entry['sha256']}  {found.folder / entry['file']}")
    if found.problems:
        raise CheckpointError("; ".join(found.problems))


def publish(
    repo: Annotated[str, typer.Option(help="OWNER/NAME of the model repository")],
    parent: Parents = None,
    dry_run: DryRun = False,
    private: Private = False,
) -> None:
    """Upload all bundled checkpoints, or those in the folder PIRF_CHECKPOINTS, with manifest, model cards and, of the
    bundled ones, the benchmark to a model repository."""
    library = Library().with_parents(parent)
    report = read_report(REPORT) if library.folder == BUNDLED and REPORT.exists() else None
    carry_out(publish_plan(library, repo, report), dry_run, private)


def deploy(
    space: Annotated[str, typer.Option(help="OWNER/NAME of the Space")],
    hardware: Annotated[str | None, typer.Option(help=", ".join(HARDWARE))] = None,
    models: Annotated[
        str | None, typer.Option(envvar="PIRF_MODEL_REPO", help="model repository that the Space offers besides")
    ] = None,
    dry_run: DryRun = False,
    private: Private = False,
) -> None:
    """Create or update a Space that runs this app: the app, its checkpoints and assets, and nothing else."""
    carry_out(deploy_plan(space, hardware, models), dry_run, private)


def carry_out(plan, dry_run: bool, private: bool) -> None:
    for line in plan.lines():
        print(line)
    print("dry run: nothing was sent" if dry_run else f"done: {send(plan, private=private)}")
