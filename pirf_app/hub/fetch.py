"""Models from the Hugging Face Hub: a repository, resolved to a commit, its manifest, and the files that lists."""

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

from huggingface_hub import HfApi, errors, get_token, try_to_load_from_cache, utils

from ..common.checks import shown
from ..common.text import megabytes
from ..models.checkpoint import CheckpointError, file_sha256
from ..models.manifest import Entry, read_manifest
from .client import HubError, Transfer, api, in_time

MAX_MANIFEST_BYTES = 2**20
MAX_FILES = 64
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]{0,199}")
TOKEN = re.compile(r"hf_\w+")


def parse_repo(text: object) -> tuple[str, str | None]:
    """OWNER/NAME and the revision, or None, from `OWNER/NAME[@REVISION]` or a page's address. Raises HubError."""
    wrong = HubError(f"a repository is named OWNER/NAME or OWNER/NAME@REVISION, not {shown(hidden(text))}")
    if not isinstance(text, str) or len(text) > 400:
        raise wrong
    path = re.sub(r"^(https?://[\w.:-]+/|hf://)", "", text.strip()).removesuffix("/")
    path = re.sub(r"^models/", "", path) if path.count("/") > 1 else path
    repo, _, revision = re.sub(r"/tree/", "@", path, count=1).partition("@")
    try:
        utils.validate_repo_id(repo)
    except errors.HFValidationError:
        raise wrong from None
    if repo.count("/") != 1 or TOKEN.search(text) or (revision and not REVISION.fullmatch(revision)):
        raise wrong
    return repo, revision or None


def hidden(text: object) -> object:
    """`text` without what looks like a token."""
    return TOKEN.sub("hf_...", text) if isinstance(text, str) else text


@dataclass(frozen=True)
class Snapshot:
    """A repository's models at one commit, in the client's cache. `note` says if the Hub could not be asked."""

    repo: str
    revision: str | None
    commit: str
    folder: Path
    note: str = ""

    @property
    def title(self) -> str:
        return f"{self.repo}@{self.commit[:8]}"


def fetch(
    text: str,
    transfer: Transfer | None = None,
    token: str | bool | None = None,
    cache_dir: Path | None = None,
) -> Snapshot:
    """The files that a repository's manifest lists, at the commit its revision names, downloaded or from the cache
    (then, for a commit, without a request). Raises HubError; nothing but the manifest is fetched from a repository
    that is larger than `transfer.limit`."""
    repo, revision = parse_repo(text)
    transfer = transfer or Transfer()
    return in_time(transfer, lambda: _fetch(repo, revision, transfer, token, cache_dir), repo)


def prune(cache_dir: Path, limit: int) -> None:
    """Deletes what has not been read for longest from a cache until the rest takes no more than `limit` bytes. Nobody
    may be using the cache meanwhile. Raises OSError.

    By the files that are there: the client's own scan leaves out a repository whose last commit was refused, and what
    a download that was broken off has left."""
    found = {}
    for folder in cache_dir.iterdir() if cache_dir.is_dir() else ():
        files = [status for path in folder.rglob("*") if S_ISREG((status := path.lstat()).st_mode)]
        found[folder] = sum(file.st_size for file in files), max((file.st_atime for file in files), default=0.0)
    left = sum(size for size, _ in found.values())
    for folder, (size, _) in sorted(found.items(), key=lambda item: item[1][1]):
        if left > limit and folder.is_dir():
            shutil.rmtree(folder)
            left -= size


def _fetch(repo: str, revision: str | None, transfer: Transfer, token, cache_dir: Path | None) -> Snapshot:
    """`_fetched`; with a token that the Hub refuses once more without one, for it lets nobody in who shows it such."""
    try:
        return _fetched(api(token), repo, revision, transfer, cache_dir)
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 401 or token is False or not (token or get_token()):
            raise
        refused = error
    try:
        found = _fetched(api(False), repo, revision, transfer, cache_dir)
    except errors.HfHubHTTPError:
        raise refused from None
    said = (
        "the Hub does not accept the token of this machine (HF_TOKEN, or that of `hf auth login`), so it was left out"
    )
    return replace(found, note="; ".join(filter(None, (found.note, said))))


def _fetched(client: HfApi, repo: str, revision: str | None, transfer: Transfer, cache_dir: Path | None) -> Snapshot:
    commit = resolved(client, repo, revision, transfer, cache_dir)
    note = ""
    if commit != revision and (transfer.failed or not transfer.answered):
        note = f"the Hub cannot be asked for newer models, so {repo} is as it was fetched earlier ({commit[:8]})"
    listed = cached(repo, "manifest.json", commit, cache_dir)
    entries = read_entries(listed) if listed else []
    if listed and all(whole(cached(repo, e["file"], commit, cache_dir), e["sha256"]) for e in entries):
        return Snapshot(repo, revision, commit, listed.parent, note)

    def get(name: str, force: bool = False) -> Path:
        transfer.file, transfer.breaks = name, 0
        options = {"cache_dir": cache_dir, "force_download": force}
        return Path(client.hf_hub_download(repo, name, revision=commit, **options))

    info = client.model_info(repo, revision=commit, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if sum(sizes.values()) > transfer.limit:
        raise HubError(f"it holds {megabytes(sum(sizes.values()))}, and the limit is {megabytes(transfer.limit)}")
    if not 0 < sizes.get("manifest.json", 0) <= MAX_MANIFEST_BYTES:
        raise HubError("it has no manifest.json, so it is no repository of models for this app")
    listed = get("manifest.json")
    entries = read_entries(listed)
    if missing := [entry["file"] for entry in entries if entry["file"] not in sizes]:
        raise HubError(f"its manifest lists {shown(missing[0])}, which is not there")
    transfer.total = sum(sizes[entry["file"]] for entry in entries)
    transfer.metering, before = True, 0
    for entry in entries:
        path = cached(repo, entry["file"], commit, cache_dir)
        if not whole(path, entry["sha256"]):
            get(entry["file"], force=path is not None)
        before += sizes[entry["file"]]
        transfer.done = before
    return Snapshot(repo, revision, commit, listed.parent, note)


def resolved(client: HfApi, repo: str, revision: str | None, transfer: Transfer, cache_dir: Path | None) -> str:
    """The commit that a revision names; that of the last time, and `transfer.failed`, where the Hub has had too many
    requests or gives no answer that can be used. Where it cannot be reached, the client does so by itself."""
    place = {"revision": revision, "cache_dir": cache_dir}
    try:
        return client.resolve_revision(repo, **place).resolved
    except errors.HfHubHTTPError:  # there is no such thing, or not for everyone: that is an answer
        raise
    except Exception:
        with suppress(errors.RevisionResolutionError):
            commit = client.resolve_revision(repo, local_files_only=True, **place).resolved
            transfer.failed = True
            return commit
        raise


def cached(repo: str, name: str, commit: str, cache_dir: Path | None) -> Path | None:
    found = try_to_load_from_cache(repo, name, cache_dir=cache_dir, revision=commit)
    return Path(found) if isinstance(found, str) else None


def whole(path: Path | None, sha256: str) -> bool:
    return path is not None and file_sha256(path) == sha256


def read_entries(manifest: Path) -> list[Entry]:
    """The entries of a fetched manifest. Raises HubError if it is none, or lists anything but checkpoint files."""
    try:
        entries = read_manifest(manifest.parent)
    except CheckpointError:
        raise HubError("its manifest.json is not one of this app") from None
    names = [entry["file"] for entry in entries]
    if not 0 < len(names) <= MAX_FILES or len(set(names)) < len(names):
        raise HubError(f"its manifest must list from 1 to {MAX_FILES} different files, not {len(names)}")
    if wrong := [name for name in names if not re.fullmatch(r"[\w.-]{1,120}\.safetensors", name)]:
        raise HubError(f"its manifest lists {shown(wrong[0])}, which is no checkpoint file")
    return entries
