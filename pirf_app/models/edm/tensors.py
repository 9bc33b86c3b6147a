"""Tensors, numbers and tables of an inertly read pickle (`inert_pickle.py`), with every size checked before it is used.

A tensor is a call to torch._utils._rebuild_tensor_v2 with its storage, shape and strides. torch.save keeps the storage
apart (`torch_files.py`); `pickle.dump` makes it a call to torch.storage._load_from_bytes with a file of torch.save's
legacy format that holds nothing else.
"""

import io
import struct
from math import prod

from torch import Tensor

from ...common.checks import InputError
from .pickle_reader import Object, told
from .torch_files import STORAGES, Stored, legacy

TENSOR_NAMES = {
    *(f"torch._utils._rebuild_{what}" for what in ("tensor_v2", "parameter", "parameter_with_state")),
    *("torch.storage._load_from_bytes", "torch.nn.parameter.Parameter", "torch.Size", "torch.device"),
    *("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64", "collections.OrderedDict"),
}
# Before and after NumPy 2.
NUMPY_NAMES = {"numpy.dtype", "numpy.ndarray", "_codecs.encode"} | {
    f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")
}
NUMBERS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "b1": "?"}
MAX_DIMENSIONS, LARGE = 8, 2**40


def table(value: object, *names: str) -> dict:
    """The items of a dictionary, or of one of the classes `names` (and OrderedDict) that is one. Raises InputError."""
    if isinstance(value, Object) and value.name in {"collections.OrderedDict", *names}:
        value = value.items
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"it has {told(value)} where a table of named values is needed")
    return value


def number(value: object) -> object:
    """A NumPy scalar as a Python number; anything else as it is."""
    if isinstance(value, Object) and value.name.endswith(".multiarray.scalar"):
        match value.args:
            case (Object(name="numpy.dtype", args=(str(kind), *_)), content) if kind in NUMBERS:
                content = as_bytes(content)
                if content is not None and len(content) == struct.calcsize("<" + NUMBERS[kind]):
                    return struct.unpack("<" + NUMBERS[kind], content)[0]
    return value


def as_bytes(value: object) -> bytes | None:
    """Bytes, which older pickles have as Latin-1 text that is to be encoded; None for anything else."""
    match value:
        case bytes():
            return value
        case Object(name="_codecs.encode", args=(str(text), "latin1")):
            return text.encode("latin1", "replace")
    return None


def storage(value: object) -> Tensor:
    """The elements `[n]` that a storage holds. Raises InputError."""
    match value:
        case Object(name="torch.storage._load_from_bytes", args=(content,)):
            content = as_bytes(content)
            value = None if content is None else legacy(io.BytesIO(content), STORAGES.keys())
    if not isinstance(value, Stored):
        raise InputError("it has a tensor whose storage is not one of torch.save's")
    return value.numbers


def is_tensor(value: object) -> bool:
    return isinstance(value, Object) and value.name.startswith(("torch._utils._rebuild_", "torch.nn.parameter."))


def _parts(value: object) -> tuple[object, int, tuple[int, ...], tuple[int, ...]]:
    """Storage, offset, shape and strides of a tensor or parameter, none of them believed yet. Raises InputError."""
    for _ in range(2):
        if isinstance(value, Object) and value.name.endswith(("_parameter", "_parameter_with_state", ".Parameter")):
            value = value.args[0] if value.args else None
    match value:
        case Object(name="torch._utils._rebuild_tensor_v2", args=(stored, offset, tuple(size), tuple(stride), *_)):
            whole = all(type(number) is int and 0 <= number < LARGE for number in (offset, *size, *stride))
            if whole and len(size) == len(stride) <= MAX_DIMENSIONS:
                return stored, offset, size, stride
            raise InputError(f"it has a tensor of shape {told(size)} and strides {told(stride)}, which is none")
    raise InputError("it has a parameter that is not a plain tensor")


def shape(value: object) -> tuple[int, ...]:
    """The shape that a tensor claims to have."""
    return _parts(value)[2]


def tensor(value: object) -> Tensor:
    """The tensor that a call to one of torch's rebuilding functions stands for. Raises InputError."""
    stored, offset, size, stride = _parts(value)
    flat = storage(stored)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size or prod(size) > len(flat) or last >= len(flat):
        raise InputError(f"it has a tensor of shape {told(size)} in a storage of {len(flat)} numbers")
    return flat.as_strided(size, stride, offset).clone()
