"""Which models there are to choose from, and what is wrong with those that cannot be used."""

from ..checkpoints import CheckpointError, Library
from ..comparison import available
from ..pdes import pde_names
from ..pdes.base import InputError


def offered(library: Library) -> dict[str, list[str]]:
    """Methods by PDE, for every PDE that has a checkpoint; all PDEs, without methods, where there is none."""
    try:
        found = {name: available(library, name) for name in pde_names()}
    except (InputError, KeyError, TypeError):
        found = {}
    return {k: v for k, v in found.items() if v} or {name: [] for name in pde_names()}


def problems(library: Library) -> list[str]:
    """One sentence for each checkpoint that cannot be used."""
    found = []
    try:
        entries = library.manifest()
    except CheckpointError as error:
        return [str(error)]
    if not entries:
        return ["there are no checkpoints here yet, so nothing can be computed"]
    for entry in entries:
        try:
            library.load(entry["pde"], entry["method"], entry["resolution"])
        except InputError as error:
            found.append(str(error))
        except (KeyError, TypeError):
            found.append("the manifest of the checkpoints has an entry that cannot be read")
    return found
