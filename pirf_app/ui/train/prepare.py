"""What stands between the wish for a run and the run: everything is checked before any work is done."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ...common.checks import InputError
from ...evaluation.comparison import data_floors
from ...evaluation.verdicts import OWN, method_title
from ...methods.presets import command_line
from ...methods.registry import find_method
from ...models.checkpoint import CheckpointInfo
from ...models.library import AnyLibrary
from ...pdes import get_pde
from ..serving.gpu_training import workers
from ..serving.offered import beginning
from ..serving.own_models import check_name
from ..serving.visitors import Visitor
from .history import History
from .recipes import Recipes
from .run import TrainingRun, check_room


def references(library: AnyLibrary, base: CheckpointInfo, method: str) -> dict[str, list[tuple[str, float]]]:
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
