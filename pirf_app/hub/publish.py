"""To the Hugging Face Hub: all checkpoints as a model repository, one run as a model repository, the app as a Space.

A `Plan` says what would go where; making one asks nothing of the network. `send` carries it out.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, SpaceCard, SpaceHardware, get_token

from ..common.checks import InputError, shown
from ..common.paths import CHECKOUT
from ..common.text import megabytes
from ..models.checkpoint import CheckpointError, CheckpointInfo, read_info
from ..models.library import AnyLibrary, Library
from ..models.manifest import FILE, Entry, entry_of
from .cards import card_name, model_card, repository_card
from .client import PUSH_SECONDS, HubError, Transfer, api, in_time
from .fetch import parse_repo

ROOT = CHECKOUT  # of which a Space is made
APP = ("app.py", "requirements.txt", "README.md", "LICENSE")  # files, then folders, that a Space runs from
FOLDERS = ("pirf_app", "checkpoints", "assets")
LEFT_OUT = re.compile(r"__pycache__|\.pyc$|\.tmp$|\.state$|/\.|^assets/screenshot-")
THUMBNAIL = "assets/screenshot.png"
PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)]+)\)\n", re.MULTILINE)
HARDWARE = tuple(str(flavour.value) for flavour in SpaceHardware)


@dataclass(frozen=True)
class Plan:
    """What goes to a repository: `files` by their path there (a local path, or the content itself), and for a Space
    its variables and hardware (None: as it is, or the Hub's default)."""

    repo: str
    kind: str  # "model" or "space"
    files: dict[str, Path | bytes]
    variables: dict[str, str] = field(default_factory=dict)
    hardware: str | None = None

    def sizes(self) -> dict[str, int]:
        """Bytes by path."""
        return {k: len(v) if isinstance(v, bytes) else v.stat().st_size for k, v in self.files.items()}

    def lines(self) -> list[str]:
        """The plan in words: a line for each file and setting."""
        sizes = self.sizes()
        width = max(map(len, sizes))
        found = [f"{path:<{width}}  {size:>12,} bytes" for path, size in sizes.items()]
        found += [f"variable {name} = {value}" for name, value in self.variables.items()]
        found += [f"hardware {self.hardware}"] if self.hardware else []
        total = f"{len(sizes)} files, {megabytes(sum(sizes.values()))}"
        return [*found, f"{total}, to the {self.kind} {'repository ' * (self.kind == 'model')}{self.repo}"]


def publish_plan(library: Library, repo: str, report: dict | None) -> Plan:
    """All checkpoints of a library with their manifest, cards, licence and report, and what they continue where that is
    elsewhere. Every file is read strictly first. Raises InputError or CheckpointError."""
    repo = repository(repo)
    entries = library.manifest()
    if not entries:
        raise InputError(f"there is no checkpoint in {library.folder.name} to publish")
    rows = report["rows"] if report else []
    members = {e["sha256"]: (renamed(e, Path(e["file"]).stem), library.folder / e["file"]) for e in entries}
    for entry, place in list(members.values()):
        parent = library.load_file(place, entry["sha256"]).info.parent
        if parent is not None and parent not in members:
            found, file = parent_of(library, place, parent)
            members[parent] = renamed(found, f"parent-{parent[:12]}"), file
    entries = [entry for entry, _ in members.values()]
    infos = [read_info(place) for _, place in members.values()]
    card = repository_card(repo, list(zip(entries, infos, strict=True)), rows, report["floors"] if report else {})
    files: dict[str, Path | bytes] = {"README.md": card.encode(), "LICENSE": ROOT / "LICENSE"}
    files[FILE] = as_json({"models": entries})
    for (entry, place), info in zip(members.values(), infos, strict=True):
        files[entry["file"]] = place
        files[card_name(entry)] = model_card(entry, info, rows, entries).encode()
    if report:
        files["report.json"] = as_json(report)
    return Plan(repo, "model", files)


def run_plan(path: Path, library: AnyLibrary, repo: str, name: str) -> Plan:
    """One checkpoint file as a repository: with its parent, which `library` must find, so that it can be used alone.
    Raises InputError or CheckpointError."""
    repo = repository(repo)
    checkpoint = library.load_file(path)
    file = file_name(name)
    members: list[tuple[Entry, CheckpointInfo]] = []
    files: dict[str, Path | bytes] = {}
    parent = checkpoint.info.parent
    if parent is not None:
        found, place = parent_of(library, path, parent)
        found = renamed(found, Path(found["file"]).stem)
        if found["file"].lower() == file.lower():
            file = file_name(f"tuned-{name}")
        members.append((found, read_info(place)))
        files[found["file"]] = place
    entry = entry_of(checkpoint.info, checkpoint.sha256, path.stat().st_size, name=name, file=file)
    members.append((entry, checkpoint.info))
    files[file] = path
    entries = [member for member, _ in members]
    card = repository_card(repo, members, [], {}).encode()
    about = {card_name(e): model_card(e, info, [], entries).encode() for e, info in members}
    about |= {"README.md": card, FILE: as_json({"models": entries})}
    return Plan(repo, "model", files | about | {"LICENSE": ROOT / "LICENSE"})


def parent_of(library: AnyLibrary, path: Path, sha256: str) -> tuple[Entry, Path]:
    """Entry and place of the parent of a file that `library` has loaded. Raises CheckpointError if it has gone."""
    if found := library.parent_of(path, sha256):
        return found
    raise CheckpointError(f"the parent checkpoint {sha256[:12]} of {path.name} is not here any more")


def renamed(entry: Entry, name: str) -> Entry:
    """The entry of a file that is called after `name` in a repository."""
    return {**entry, "file": file_name(name)}


def deploy_plan(space: str, hardware: str | None = None, models: str | None = None, root: Path = ROOT) -> Plan:
    """What a Space needs to run this app, and nothing else: no tests, no training state, no hidden files. `models` is
    the repository whose models it adds to the bundled ones. Raises InputError."""
    space = repository(space)
    if hardware is not None and hardware not in HARDWARE:
        raise InputError(f"unknown hardware {shown(hardware)}: choose one of {', '.join(HARDWARE)}")
    files: dict[str, Path | bytes] = {name: root / name for name in APP}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and not path.is_symlink() and not LEFT_OUT.search(name):
                files[name] = path
    if missing := [name for name in APP if not (root / name).is_file()]:
        raise InputError(f"{missing[0]} is missing, so this is not a complete checkout")
    files["README.md"] = space_readme((root / "README.md").read_text(), space, hardware, models, set(files)).encode()
    return Plan(space, "space", files, {"PIRF_MODEL_REPO": models} if models else {}, hardware)


def space_readme(text: str, space: str, hardware: str | None, models: str | None, files: set[str]) -> str:
    """The README for a Space: what only a deployment knows is added to its front matter, and pictures that do not go
    along are left out. Raises InputError if the front matter is none."""
    try:
        card = SpaceCard(text, ignore_metadata_errors=False)
    except Exception as error:  # of the YAML parser, or of what the client makes of the values
        raise InputError(f"the front matter of README.md cannot be read ({type(error).__name__})") from None
    card.data["thumbnail"] = f"https://huggingface.co/spaces/{space}/resolve/main/{THUMBNAIL}"
    if hardware:
        card.data["suggested_hardware"] = hardware
    if models:
        name, _ = parse_repo(models)
        card.data["models"], card.data["preload_from_hub"] = [name], [name]  # one list would be written as an alias
    card.text = PICTURE.sub(lambda match: match[0] if match[1] in files else "", card.text)
    return str(card)


def send(plan: Plan, token: str | None = None, private: bool = False, transfer: Transfer | None = None) -> str:
    """Creates the repository if need be, uploads what has changed in one commit, and returns its address. In a Space
    what an earlier deployment put there and this one has not is removed. Raises HubError."""
    transfer = transfer or Transfer(PUSH_SECONDS)

    def work() -> str:
        if not (token or get_token()):
            raise HubError("uploading needs a Hugging Face token: set HF_TOKEN or run `hf auth login`")
        client = api(token)
        place = {"repo_id": plan.repo, "repo_type": plan.kind}
        new = not client.repo_exists(**place)
        if new:
            options = {}
            if plan.kind == "space":
                variables = [{"key": k, "value": v} for k, v in plan.variables.items()]
                options = {"space_sdk": "gradio", "space_hardware": plan.hardware, "space_variables": variables or None}
            client.create_repo(**place, private=private or None, exist_ok=True, **options)
        elif plan.kind == "space":
            for key, value in plan.variables.items():
                client.add_space_variable(plan.repo, key, value)
        operations: list = [CommitOperationAdd(path, content) for path, content in plan.files.items()]
        if plan.kind == "space":
            there = {file.rfilename for file in client.repo_info(**place).siblings or []}
            stale = {path for path in there - set(plan.files) if path.startswith(tuple(f"{f}/" for f in FOLDERS))}
            operations += [CommitOperationDelete(path) for path in sorted(stale)]
        # Several weights at once go up on threads that the limits of `transfer` do not reach: so one by one, before.
        for operation in operations:
            if isinstance(operation, CommitOperationAdd) and b"\0" in operation.upload_info.sample:  # it is no text
                client.preupload_lfs_files(plan.repo, [operation], repo_type=plan.kind)
        message = "Deploy the app" if plan.kind == "space" else "Publish checkpoints"
        client.create_commit(**place, operations=operations, commit_message=message)
        if plan.hardware and not new:
            client.request_space_hardware(plan.repo, plan.hardware)
        return f"{client.endpoint}/{'spaces/' if plan.kind == 'space' else ''}{plan.repo}"

    return in_time(transfer, work, plan.repo)


def file_name(name: str) -> str:
    """What the file of a model called `name` is called in a repository, so that `hub.read_entries` takes it."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)[:100].lstrip('.') or 'model'}.safetensors"


def repository(text: str) -> str:
    """OWNER/NAME itself. Raises HubError."""
    repo, revision = parse_repo(text)
    if revision:
        raise HubError(f"a repository to write to is named OWNER/NAME, without a revision, not {shown(text)}")
    return repo


def as_json(value: dict) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
