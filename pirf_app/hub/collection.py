"""Models from several places as one library: the bundled ones, there at once, and those of Hub repositories, which
arrive in the background and are offered only after every check."""

import logging
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..common.checks import InputError, shown
from ..models.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from ..models.library import AnyLibrary, Library, load_from, methods_in
from ..models.manifest import Entry, is_figure
from .client import PULL_SECONDS, HubError, Transfer
from .fetch import Snapshot, fetch

AGAIN = (60.0, 300.0, 1800.0)  # seconds before a repository that could not be had is asked for again
BUNDLED = "bundled"
NAMED = ("pde", "resolution", "method", "parent")
log = logging.getLogger(__name__)


class HubLibrary(Library):
    """The sound models of a fetched repository. A tuned one may continue a model of `bundled`."""

    def __init__(self, snapshot: Snapshot, bundled: AnyLibrary):
        super().__init__(snapshot.folder, fallback=bundled)
        self.snapshot = snapshot
        self.problems: list[str] = []
        self.entries = super().manifest()
        self.entries = [entry for entry in self.entries if self._sound(entry)]

    def _sound(self, entry: Entry) -> bool:
        """Whether a file is what the manifest says, by the strict loader; if not, `problems` says why."""
        path = self.folder / entry["file"]
        try:
            found = load_checkpoint(path, self.find_parent, entry["sha256"]).info
            said = {name: getattr(found, name) for name in NAMED} | {"size": path.stat().st_size}
            said |= {"parameters": found.parameters}
            if wrong := [name for name, value in said.items() if value != entry.get(name, {})]:
                raise CheckpointError(f"{entry['file']} has another {wrong[0]} than the manifest says")
            if wrong := [name for name, value in entry["figures"].items() if not is_figure(value)]:
                raise CheckpointError(f"the manifest's {shown(wrong[0])} of {entry['file']} is no finite number")
        except InputError as error:
            self.problems.append(f"{self.snapshot.repo}: {error}")
            return False
        return True

    def manifest(self) -> list[Entry]:
        return self.entries


@dataclass
class Arrival:
    """A repository on its way into a collection: `state` is fetching, ready or failed; `sentence` says more of it."""

    text: str
    transfer: Transfer = field(default_factory=Transfer)
    state: str = "fetching"
    sentence: str = ""
    ended: threading.Event = field(default_factory=threading.Event)


class Collection(AnyLibrary):
    """A bundled library, and over it the models of Hub repositories; these are called METHOD@OWNER/NAME."""

    def __init__(self, bundled: Library):
        self.bundled = bundled
        self.parts: dict[str, HubLibrary] = {}  # by repository
        self.arrivals: list[Arrival] = []

    def take(self, snapshot: Snapshot) -> HubLibrary:
        """Checks a snapshot and offers what is sound in it. Raises HubError if nothing is."""
        part = HubLibrary(snapshot, self.bundled)
        if not part.entries:
            raise HubError(f"none of its models can be used: {part.problems[0]}")
        self.parts = self.parts | {snapshot.repo: part}
        return part

    def follow(self, text: str, cache_dir: Path | None = None, seconds: float | None = None) -> Arrival:
        """Starts to fetch a repository in the background and to take it in; a failure is tried again later, but within
        so many `seconds` once only."""
        arrival = Arrival(text)
        self.arrivals.append(arrival)
        threading.Thread(target=self._arrive, args=(arrival, cache_dir, seconds), daemon=True, name="models").start()
        return arrival

    def _arrive(self, arrival: Arrival, cache_dir: Path | None, seconds: float | None) -> None:
        for pause in (*(AGAIN if seconds is None else ()), None):
            arrival.transfer = Transfer(seconds or PULL_SECONDS)
            try:
                part = self.take(fetch(arrival.text, arrival.transfer, cache_dir=cache_dir))
                arrival.sentence = " ".join([part.snapshot.note, *part.problems]).strip()
                arrival.state = "ready"
            except InputError as error:
                arrival.state, arrival.sentence = "failed", f"{error}; the bundled models are not affected"
            except Exception as error:  # a thread has nobody to raise to
                arrival.state, arrival.sentence = "failed", f"{arrival.text} cannot be used ({type(error).__name__})"
            if arrival.sentence:
                log.warning("%s", arrival.sentence)
            arrival.ended.set()
            if arrival.state == "ready" or pause is None or threading.Event().wait(pause):
                return

    def manifest(self) -> list[Entry]:
        """The bundled entries, and those of the repositories with `source`, the repository and commit, besides. The
        same file is listed once: a bundled entry then says in `source` where else it is."""
        entries = {entry["sha256"]: entry for entry in self.bundled.manifest()}
        for repo, part in self.parts.items():
            for entry in part.manifest():
                title, same = part.snapshot.title, entries.get(entry["sha256"])
                if same is None:
                    entries[entry["sha256"]] = {**entry, "method": f"{entry['method']}@{repo}", "source": title}
                else:
                    entries[entry["sha256"]] = {**same, "source": f"{same.get('source', BUNDLED)}, {title}"}
        return list(entries.values())

    def methods(self, pde: str, resolution: int | None = None) -> list[str]:
        return methods_in(self.manifest(), pde, resolution)

    def none_known(self) -> str:
        return self.bundled.none_known()

    def load(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        return load_from(self._listed, pde, method, resolution)

    def load_file(self, path: Path, expected_sha256: str | None = None) -> Checkpoint:
        return load_checkpoint(path, self.find_parent, expected_sha256)

    def _listed(self, pde: str, method: str, resolution: int | None = None) -> Checkpoint:
        entry = self.find(pde, method, resolution)
        plain, _, repo = method.rpartition("@")
        if repo not in self.parts:
            return self.bundled.listed(pde, method, resolution)
        checkpoint = self.parts[repo].listed(pde, plain, entry["resolution"])
        return replace(checkpoint, info=replace(checkpoint.info, method=method))

    def _holder(self, sha256: str) -> Library:
        """The first part that has the file with that hash; the bundled one where none has it."""
        parts = (self.bundled, *self.parts.values())
        return next((part for part in parts if part.located(sha256)), self.bundled)

    def located(self, sha256: str) -> tuple[Entry, Path] | None:
        return self._holder(sha256).located(sha256)

    def find_parent(self, sha256: str) -> Checkpoint:
        return self._holder(sha256).find_parent(sha256)
