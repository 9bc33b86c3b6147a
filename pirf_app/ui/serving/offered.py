"""Which models there are to choose from, and what is wrong with those that cannot be used."""

import atexit
import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from ...common.checks import InputError, shown
from ...diffusion.guidance import GUIDANCE
from ...diffusion.sampler import LEAST_STEPS, Schedule
from ...evaluation.comparison import available
from ...evaluation.verdicts import OWN, method_title
from ...models.checkpoint import Checkpoint, CheckpointError, file_sha256, read_info, sentences
from ...models.library import AnyLibrary, Library, grid
from ...pdes import get_pde, pde_names
from .lanes import Lanes

log = logging.getLogger(__name__)


def offered(library: AnyLibrary) -> dict[str, list[str]]:
    """Methods by PDE, for every PDE that has a checkpoint; all PDEs, without methods, where there is none."""
    try:
        found = {name: available(library, name) for name in pde_names()}
    except (InputError, KeyError, TypeError):
        found = {}
    return {k: v for k, v in found.items() if v} or {name: [] for name in pde_names()}


def equations(library: AnyLibrary) -> list[tuple[str, str]]:
    """The PDEs of `offered` by title, to choose from."""
    return [(get_pde(name).title, name) for name in offered(library)]


def problems(library: Library) -> list[str]:
    """One sentence for each checkpoint that cannot be used, from its hash and what it says of itself: what the strict
    loader looks at besides is in a file that has the right hash, unless it was listed with that flaw."""
    found = []
    try:
        entries = library.manifest()
    except CheckpointError as error:
        return [str(error)]
    if not entries:
        return ["there are no checkpoints here yet, so nothing can be computed"]
    for entry in entries:
        path = library.folder / entry["file"]
        try:
            info = read_info(path)
            if file_sha256(path) != entry["sha256"]:
                raise CheckpointError(f"{path.name} is not the file that the manifest lists: its SHA-256 differs")
            if info.parent is not None and library.parent_of(path, info.parent) is None:
                raise CheckpointError(f"{path.name} cannot be used: its parent {info.parent[:12]} is not here")
        except InputError as error:
            found.append(error)
    return sentences(found)


def warm_up(library: AnyLibrary, seconds: float, lanes: Lanes) -> threading.Thread:
    """Loads every checkpoint, strictly, in the background after so many seconds, each in a turn of the lane, so that
    nobody has to wait for that; logs what cannot be used. The thread ends before the process does: torch aborts if it
    is cut off at work."""
    stop = threading.Event()

    def work() -> None:
        stop.wait(seconds)
        try:
            entries = library.manifest()
        except InputError as error:
            log.warning("%s", error)
            return
        found = []
        for entry in entries:
            if stop.is_set():
                return
            try:
                lanes.do(partial(library.load, entry["pde"], entry["method"], entry["resolution"]))
            except InputError as error:
                found.append(error)
        for sentence in sentences(found):
            log.warning("%s", sentence)

    thread = threading.Thread(target=work, daemon=True, name="warm-up")
    thread.start()
    atexit.register(lambda: (stop.set(), thread.join()))
    return thread


def recommended(library: AnyLibrary, pde: str, method: str, resolution: int | None = None) -> Schedule:
    """The noise schedule that a model recommends, without loading it; what only guides the baseline has that of the
    baseline. Raises InputError."""
    _, path = library.located(library.find(pde, "base" if method in GUIDANCE else method, resolution)["sha256"])
    return read_info(path).schedule


def least_steps(library: AnyLibrary, pde: str, methods: Iterable[str], resolution: int | None = None) -> int:
    """The number of sampler steps below which some of these models give no samples; those that there are not count for
    nothing."""
    found = [LEAST_STEPS]
    for method in methods:
        with suppress(InputError, LookupError):
            found.append(recommended(library, pde, method, grid(library, pde, resolution)).least_steps)
    return max(found)


def beginnings(library: AnyLibrary, pde: str) -> dict[str, int]:
    """The methods whose checkpoints a run may start from, and their resolution: the baseline on the benchmark's default
    grid, or the coarsest where there is none of that, and the visitor's own models on any."""
    entries, default = [e for e in library.manifest() if e["pde"] == pde], get_pde(pde).default_resolution
    sizes = sorted((e["resolution"] for e in entries if e["method"] == "base"), key=lambda n: (n != default, n))
    found = {"base": sizes[0]} if sizes else {}
    return found | {e["method"]: e["resolution"] for e in entries if e["method"].startswith(OWN)}


def beginning(library: AnyLibrary, pde: str, begin: str | None) -> Checkpoint:
    """The model that a run starts from. Raises InputError, naming those there are."""
    known = beginnings(library, pde)
    if begin not in known:
        raise InputError(f"a run cannot start from {shown(begin)}: choose {', '.join(known) or 'none yet'}")
    return library.load(pde, begin, known[begin])


def begin_choices(library: AnyLibrary, pde: str, chosen: str | None = "base") -> dict:
    """`beginnings` for a dropdown; none where the library cannot be read, which is told at the top of the page."""
    try:
        known = beginnings(library, pde)
    except InputError:
        known = {}
    value = chosen if chosen in known else next(iter(known), None)
    default = get_pde(pde).default_resolution
    titles = {m: method_title(m) + (f" ({size} × {size})" if size != default else "") for m, size in known.items()}
    return {"choices": [(title, m) for m, title in titles.items()], "value": value}
