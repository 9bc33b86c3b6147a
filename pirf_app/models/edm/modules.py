"""The tensors of a DDPM++ network by name, from what a file of an EDM code base holds: a network of persistent classes
(`torch_utils.persistence`), or the state dictionary of one; by itself, or in a table beside other things."""

from collections.abc import Iterator

import torch

from ...common.checks import InputError, shown
from ...diffusion.network import SKIP_SCALE, group_norm
from ...diffusion.prior import SIGMA_DATA
from .pickle_reader import Object, told
from .tensors import NUMPY_NAMES, TENSOR_NAMES, is_tensor, number, shape, table, tensor
from .torch_files import STORAGES

MAX_MODULES, MAX_DEPTH = 5000, 8
PERSISTENCE = "torch_utils.persistence._reconstruct_persistent_obj"
TABLES = ("dnnlib.util.EasyDict", "dnnlib.EasyDict")
LAYERS = tuple(f"torch.nn.modules.{kind}" for kind in ("container.ModuleDict", "container.ModuleList"))
SETS = ("builtins.set", "__builtin__.set")
NAMES = {PERSISTENCE, *TABLES, *LAYERS, *SETS, *TENSOR_NAMES, *NUMPY_NAMES, *STORAGES}
UNDER = ("ema", "net", "model", "state_dict")  # what a network is called in a table, the averaged weights first
WRAPPERS = ("module.", "model.")  # what the names in a state dictionary may all begin with
# What the classes of a DDPM++ network may say of themselves; another value would be another function.
CLASSES: dict[str, dict[str, float]] = {
    "EDMPrecond": {"sigma_data": SIGMA_DATA, "label_dim": 0},
    "SongUNet": {},
    "UNetBlock": {"skip_scale": SKIP_SCALE, "adaptive_scale": False},
    "PositionalEmbedding": {"endpoint": True, "max_positions": 10000},
    "GroupNorm": {"eps": 1e-6},
    "Conv2d": {},
    "Linear": {},
    "ModuleDict": {},
    "ModuleList": {},
}
UNUSED = "map_augment.weight"  # of augmentation labels, which only training gives


def network(content: object) -> tuple[str, dict[str, Object]]:
    """What a file holds, in words, and the network's tensors by name. Raises InputError."""
    if _is_module(content):
        return _of_module(content)
    entries = table(content, *TABLES)
    under = next((name for name in UNDER if entries.get(name) is not None), None)
    if under is not None and not is_tensor(entries[under]):
        return _of_module(entries[under]) if _is_module(entries[under]) else _of_state(entries[under])
    if not any(map(is_tensor, entries.values())):
        raise InputError(f"it has no network under 'ema' or 'net' and is none itself; it has {told(list(entries))}")
    return _of_state(entries)


def _is_module(value: object) -> bool:
    return isinstance(value, Object) and value.name in (PERSISTENCE, *LAYERS)


def _of_state(value: object) -> tuple[str, dict[str, Object]]:
    """Of a state dictionary, which says nothing of the classes: they are taken to be those of `CLASSES`."""
    entries, tensors = table(value, *TABLES), {}
    if len(entries) > MAX_MODULES:
        raise InputError(f"it has more than {MAX_MODULES} modules and tensors")
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in entries):
            entries = {name.removeprefix(wrapper): part for name, part in entries.items()}
    for name, part in entries.items():
        if not is_tensor(part):
            raise InputError(f"it has {shown(name, 80)}, which is not a tensor")
        if name.rpartition(".")[2] == "resample_filter":
            _check_filter(name, part)
        elif name != UNUSED:
            tensors[name] = part
    return "a state dictionary", tensors


def _of_module(value: object) -> tuple[str, dict[str, Object]]:
    """Of an EDMPrecond around one network."""
    kind, state = _module(value)
    outer = table(state.get("_modules"), *TABLES)
    if kind != "EDMPrecond" or list(outer) != ["model"]:
        raise InputError(f"it has a {shown(kind)}, where this app reads an EDMPrecond around one network")
    _check_attributes("", kind, state)
    inner = _module(outer["model"])[0]
    if inner != "SongUNet":
        raise InputError(f"it has a network of class {shown(inner)}, where this app reads SongUNet (DDPM++)")
    tensors = {}
    for visited, (name, part) in enumerate(_walk(outer["model"], "", 0)):
        if visited > MAX_MODULES:
            raise InputError(f"it has more than {MAX_MODULES} modules and tensors")
        if part is not None and name != UNUSED:
            tensors[name] = part
    return f"{kind} around {inner}", tensors


def _module(value: object) -> tuple[str, dict]:
    """Class name and attributes of a module, whichever way it was pickled."""
    if isinstance(value, Object) and value.name in LAYERS:
        return value.name.rpartition(".")[2], table(value.state, *TABLES)
    if not isinstance(value, Object) or value.name != PERSISTENCE or len(value.args) != 1:
        raise InputError("it has a part that is neither a persistent class nor a container of them")
    meta = table(value.args[0], *TABLES)
    if meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise InputError("it has a persistent object that does not name its class")
    return meta["class_name"], table(meta.get("state"), *TABLES)


def _walk(value: object, prefix: str, depth: int) -> Iterator[tuple[str, Object | None]]:
    """Every module below (with None) and every tensor, by name; the resampling filters are checked and left out."""
    yield prefix, None
    kind, state = _module(value)
    _check_attributes(prefix, kind, state)
    for group in ("_parameters", "_buffers"):
        for name, part in table(state.get(group, {}), *TABLES).items():
            if part is None:
                continue
            if not is_tensor(part):
                raise InputError(f"it has {shown(f'{prefix}{name}', 80)}, which is not a tensor")
            if name == "resample_filter":
                _check_filter(prefix, part)
            else:
                yield f"{prefix}{name}", part
            if kind == "GroupNorm" and name == "weight":
                _check_groups(prefix, state, part)
    if depth > MAX_DEPTH:
        raise InputError(f"it has modules nested more than {MAX_DEPTH} deep")
    for name, part in table(state.get("_modules", {}), *TABLES).items():
        if part is not None:
            yield from _walk(part, f"{prefix}{name}.", depth + 1)


def _check_attributes(prefix: str, kind: str, state: dict) -> None:
    where = f"{shown(prefix, 80)} of class" if prefix else "the class"
    if kind not in CLASSES:
        raise InputError(f"it has {where} {shown(kind)}, which no DDPM++ network has")
    for name, expected in CLASSES[kind].items():
        found = number(state.get(name, expected))
        low, high = expected * (1 - 1e-6), expected * (1 + 1e-6)  # only compared with: a whole number may be too large
        if not isinstance(found, int | float) or not low <= found <= high:
            raise InputError(
                f"it has {where} {kind} with {name} = {told(found)}; this app computes with {expected:.6g}"
            )
    if kind == "UNetBlock" and number(state.get("num_heads", 0)) not in (0, 1):
        raise InputError(
            f"it has {where} {kind} with {told(number(state['num_heads']))} attention heads; DDPM++ has one"
        )


def _check_filter(prefix: str, part: Object) -> None:
    if shape(part) != (1, 1, 2, 2) or not torch.equal(tensor(part).float(), torch.full((1, 1, 2, 2), 0.25)):
        raise InputError(f"it resamples with another filter than DDPM++'s [1, 1], in {shown(prefix, 80)}")


def _check_groups(prefix: str, state: dict, weight: Object) -> None:
    channels = shape(weight)[0] if len(shape(weight)) == 1 else 0
    groups = number(state.get("num_groups", group_norm(channels).num_groups if 0 < channels < 2**16 else 0))
    if not 4 <= channels < 2**16 or groups != group_norm(channels).num_groups:
        raise InputError(f"it normalises {channels} channels in {told(groups)} groups, in {shown(prefix, 80)}")
