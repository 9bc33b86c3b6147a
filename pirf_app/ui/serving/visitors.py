"""Who is here: visitors by the session of their page, each with models of their own in a folder that goes when they
have gone. Memory holds a few of the models at most."""

import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.checkpoint import MAX_BYTES, Checkpoint, load_checkpoint
from ...models.library import AnyLibrary
from .own_models import NoRoomError, OwnModels, Reader

if TYPE_CHECKING:
    from ..train.run import TrainingRun

MAX_TOTAL = 4 * 2**30  # bytes of all visitors' files together
MAX_VISITORS = 200
KEEP_SECONDS = 3600.0  # after a page lost touch: it may come back
CLOSED = 1000  # sessions whose page was closed that are remembered
LOADED = 8  # models of visitors that are kept in memory


class Visitor:
    """What one visitor has here: `models`, a `folder` for files, and `run`, the training under way or last done."""

    def __init__(self, shared: AnyLibrary, room: Callable[[int], None], read: Reader):
        self.folder = Path(tempfile.mkdtemp(prefix="pirf-visitor-"))
        self._gone = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        models = self.folder / "models"
        models.mkdir()
        self.models = OwnModels(shared, models, room, read)
        self.run: TrainingRun | None = None
        self.starting = threading.Lock()  # held where one run takes another's place
        self.farewell: threading.Timer | None = None
        self.overlay: str | None = None  # the model whose curves are laid over those of the run
        self.listed: set[str] = set()  # methods that the Compare tab has offered already
        self.former: set[str] = set()  # sessions that the visitor was before
        self.opened = 0.0  # when the browser loaded the page that took over from those, in milliseconds

    def leave(self) -> None:
        """Deletes everything."""
        self.end_run()
        self.stay()
        self._gone()

    def stay(self) -> None:
        """Takes back that the page has lost touch."""
        if self.farewell is not None:
            self.farewell.cancel()
            self.farewell = None

    def new_page(self, opened: float) -> None:
        """Forgets what was chosen on the page: a new one begins with its own choices, and without the training."""
        self.overlay, self.listed, self.opened = None, set(), opened
        self.end_run()
        if self.run is not None:
            self.run.sample, self.run.shown = 0, -1

    def end_run(self) -> None:
        """Asks the training under way to end; what it has learned is kept."""
        if self.run is not None:
            self.run.stop()

    @property
    def training(self) -> bool:
        return self.run is not None and self.run.going

    @property
    def has_nothing(self) -> bool:
        return self.run is None and not self.models.mine()


class Visitors:
    """Visitors by the session of their page."""

    def __init__(self, shared: AnyLibrary):
        self.shared = shared
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        self._loaded: OrderedDict[tuple[Path, str], Checkpoint] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()  # sessions whose page was closed or lost touch
        self._lock, self._loading = threading.RLock(), threading.RLock()  # files are read without the first one

    def of(self, session: str | None) -> Visitor:
        """The visitor of a session, new if need be. When there are too many, others make room: first those who have
        nothing, then the longest silent; nobody whose training is under way."""
        with self._lock:
            session = session or ""
            if session not in self._known:
                self._known[session] = Visitor(self.shared, self.check_room, self._read)
            self._known.move_to_end(session)
            found = self._known[session]
            if session in self._closed:  # whoever asks may be a handler that was still at work, not the page again
                self._expect(found, session)
            else:
                found.stay()
            idle = [name for name, visitor in self._known.items() if visitor is not found and not visitor.training]
            idle.sort(key=lambda name: not self._known[name].has_nothing)
            gone = [self._known.pop(name) for name in idle[: max(0, len(self._known) - MAX_VISITORS)]]
        for visitor in gone:
            visitor.leave()
        return found

    def known(self, session: str | None) -> Visitor | None:
        """The visitor of a session, if it has made itself one."""
        return self.of(session) if (session or "") in self._known else None

    def library(self, session: str | None) -> AnyLibrary:
        """What a session can sample from: the shared library, with its own models if it has any."""
        visitor = self.known(session)
        return visitor.models if visitor else self.shared

    def away(self, session: str | None) -> None:
        """The page of a session was closed or lost touch: its training ends, and its models go once nothing has been
        asked for in it for a while."""
        with self._lock:
            self._closed[session or ""] = None
            self._closed.move_to_end(session or "")
            while len(self._closed) > CLOSED:
                self._closed.popitem(last=False)
            visitor = self._known.get(session or "")
            if visitor:
                visitor.end_run()
                self._expect(visitor, session or "")

    def _expect(self, visitor: Visitor, session: str) -> None:
        """Has the visitor forgotten after a while, unless `of` is asked for the session before; not during a training,
        which is one that began after the page had come back."""
        visitor.stay()

        def leave() -> None:
            with self._lock:
                if visitor.training:
                    return self._expect(visitor, session)
            return self.forget(session)

        farewell = threading.Timer(KEEP_SECONDS, leave)
        farewell.daemon = True
        farewell.start()
        visitor.farewell = farewell

    def rejoin(self, before: str, session: str, opened: float) -> Visitor | None:
        """The visitor of session `before` as that of `session`: a page that is loaded again, or comes back from signing
        in, is a new session; its training is on its way to an end. `opened` is when that was, in milliseconds: of
        several pages loaded in a row the last one has the visitor, in whatever order they ask. None where there is no
        such visitor, or where something has been done in the new session already."""
        with self._lock:
            at = next((name for name, known in self._known.items() if before in (name, *known.former)), None)
            if at is None or session in self._known or opened <= self._known[at].opened:
                return None
            visitor = self._known[session] = self._known.pop(at)
            visitor.former.add(at)
            visitor.new_page(opened)
            self._expect(visitor, session)  # that page may be gone as well by now
        return visitor

    def forget(self, session: str | None) -> None:
        """Deletes what a session had."""
        with self._lock:
            visitor = self._known.pop(session or "", None)
        if visitor:
            visitor.leave()

    def check_room(self, size: int) -> None:
        """Raises NoRoomError if there is no room for a file of so many bytes."""
        used = sum(model.size for visitor in list(self._known.values()) for model in visitor.models.mine())
        if size > MAX_BYTES or used + size > MAX_TOTAL:
            raise NoRoomError("this server has no room for another model just now: remove one, or try again later")

    def _read(self, path: Path, sha256: str, models: OwnModels) -> Checkpoint:
        key = (path, sha256)
        with self._loading:
            if key not in self._loaded:
                self._loaded[key] = load_checkpoint(path, models.find_parent, sha256)
            self._loaded.move_to_end(key)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[key]
