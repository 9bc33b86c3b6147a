"""What stands between the wish for a run and the run: everything is checked before any work is done."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ..checkpoints import Checkpoint, CheckpointInfo
from ..comparison import data_floors
from ..library import Library
from ..methods.finetuning import command_line
from ..methods.registry import find_method
from ..pdes import get_pde
from ..pdes.base import InputError, shown
from ..wording import OWN, method_title
from .gpu_training import workers
from .history import History
from .own import check_name
from .recipes import Recipes
from .training import TrainingRun, check_room
from .visitors import Visitor


def beginnings(library: Library, pde: str) -> dict[str, int]:
    """The methods whose checkpoints a run may start from, and their resolution: the baseline on the benchmark's default
    grid, or the coarsest where there is none of that, and the visitor's own models on any."""
    entries, default = [e for e in library.manifest() if e["pde"] == pde], get_pde(pde).default_resolution
    sizes = sorted((e["resolution"] for e in entries if e["method"] == "base"), key=lambda n: (n != default, n))
    found = {"base": sizes[0]} if sizes else {}
    return found | {e["method"]: e["resolution"] for e in entries if e["method"].startswith(OWN)}


def beginning(library: Library, pde: str, begin: str | None) -> Checkpoint:
    """The model that a run starts from. Raises InputError, naming those there are."""
    known = beginnings(library, pde)
    if begin not in known:
        raise InputError(f"a run cannot start from {shown(begin)}: choose {', '.join(known) or 'none yet'}")
    return library.load(pde, begin, known[begin])


def begin_choices(library: Library, pde: str, chosen: str | None = "base") -> dict:
    """`beginnings` for a dropdown; none where the library cannot be read, which is told at the top of the page."""
    try:
        known = beginnings(library, pde)
    except InputError:
        known = {}
    value = chosen if chosen in known else next(iter(known), None)
    default = get_pde(pde).default_resolution
    titles = {m: method_title(m) + (f" ({size} × {size})" if size != default else "") for m, size in known.items()}
    return {"choices": [(title, m) for m, title in titles.items()], "value": value}


def references(library: Library, base: CheckpointInfo, method: str) -> dict[str, list[tuple[str, float]]]:
    """Levels to hold a run from `base` against: what the bundled checkpoint of the method reached on the same equation,
    and the floor of solver data."""
    found: dict[str, list[tuple[str, float]]] = {"residual": [], "error": []}
    wanted = {"parameters": {}} | base.label | {"method": method}
    for entry in library.manifest():
        if all(entry.get(key, {}) == value for key, value in wanted.items()):
            for name, figure in (("residual", "residual_rms"), ("error", "solve_error_median")):
                if entry["figures"].get(figure):
                    found[name].append((f"bundled {method_title(method)}", entry["figures"][figure]))
    found["residual"].append(
        ("data floor", data_floors(base.pde, base.resolution, base.benchmark.own_parameters)["residual_rms"])
    )
    return found


def check_idle(visitor: Visitor) -> None:
    """Raises InputError while a run of the visitor's is under way."""
    if visitor.training:
        raise InputError("a run of yours is under way: stop it first")


def prepare(
    visitor: Visitor, recipes: Recipes, pde: str, begin: str, method: str, values: Mapping[str, Any], name: str = ""
) -> TrainingRun:
    """The run that is asked for, ready to work, as the visitor's run in place of the previous one, whose files go.
    Raises InputError, with a reason, if it cannot be."""
    check_idle(visitor)
    library, problem, kind = visitor.models, get_pde(pde), find_method(method)
    base = beginning(library, pde, begin)
    check_room(library)
    name = library.free_name(check_name(name or f"{pde}-{method}"))
    size = base.info.resolution
    where = f" at {size} × {size}" if size != problem.default_resolution else ""
    config = recipes.recipe(base, method, values)
    recipes.check(base, method, config)
    levels = recipes.lanes.do(lambda: references(library, base.info, method))
    file = f"{begin.removeprefix(OWN)}.safetensors" if begin.startswith(OWN) else None
    folder = visitor.folder / uuid4().hex
    run = TrainingRun(
        name=name,
        pde=pde,
        words=" · ".join(
            [base.info.benchmark.full_title + where, f"{kind.title} from {method_title(begin)}", f"seed {config.seed}"]
        ),
        base=base,
        method=method,
        config=config,
        history=History(name, config.updates, levels, kind.rewarded),
        folder=folder,
        build=lambda: kind.tuning(base, config, workers()),
        restore=lambda path: kind.tuning.load(base, path, workers()),
        command=command_line(config, base, f"{name}.safetensors", method, file),
    )
    with visitor.starting:  # the work above takes seconds, and another run may have begun meanwhile
        check_idle(visitor)
        folder.mkdir()
        if visitor.run is not None:
            visitor.run.discard()
        visitor.run = run
    return run
