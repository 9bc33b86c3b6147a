"""Tensors, numbers and tables of an inertly read pickle (`inert_pickle.py`), with every size checked before it is used.

`pickle.dump` of a CPU tensor writes a call to torch._utils._rebuild_tensor_v2 with its storage, shape and strides, and
the storage as a call to torch.storage._load_from_bytes with what torch.save's legacy format makes of it: five small
pickles, the number of elements, and the elements.
"""

import io
import struct
from math import prod

import torch
from torch import Tensor

from .inert_pickle import PERSISTENT, Name, Object, read, told
from .pdes.base import InputError

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
}
TENSOR_NAMES = {
    *(f"torch._utils._rebuild_{what}" for what in ("tensor_v2", "parameter", "parameter_with_state")),
    *("torch.storage._load_from_bytes", "torch.nn.parameter.Parameter", "torch.Size", "torch.device"),
    *("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64", "collections.OrderedDict"),
}
# Before and after NumPy 2.
NUMPY_NAMES = {"numpy.dtype", "numpy.ndarray"} | {
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
            case (Object(name="numpy.dtype", args=(str(kind), *_)), bytes(content)) if kind in NUMBERS:
                if len(content) == struct.calcsize("<" + NUMBERS[kind]):
                    return struct.unpack("<" + NUMBERS[kind], content)[0]
    return value


def storage(value: object) -> Tensor:
    """The elements `[n]` that a storage holds. Raises InputError."""
    match value:
        case Object(name="torch.storage._load_from_bytes", args=(bytes(content),)):
            return _legacy_storage(content)
    raise InputError("it has a tensor whose storage is not in torch.save's legacy format")


def _legacy_storage(content: bytes) -> Tensor:
    file = io.BytesIO(content)
    magic, version, system = (read(file, frozenset()) for _ in range(3))
    if (magic, version) != (LEGACY_MAGIC, LEGACY_VERSION) or table(system).get("little_endian") is not True:
        raise InputError("it has a tensor whose storage is not in torch.save's legacy format, little-endian")
    reference, keys = read(file, STORAGES.keys()), read(file, frozenset())
    match reference:
        case Object(name=name, args=(("storage", Name(kind), str(key), _, _, None),)) if (
            (name, keys) == (PERSISTENT, [key])  # of text: what holds itself, or much, is not to be compared
        ):
            dtype = STORAGES[kind]
        case _:
            raise InputError("it has a tensor whose storage is not one whole storage")
    count, data = file.read(8), file.read()
    size = dtype.itemsize
    if len(count) != 8 or len(data) != int.from_bytes(count, "little") * size or len(data) == 0:
        raise InputError(f"it has a tensor storage of {len(data)} bytes that does not hold what it says")
    return torch.frombuffer(bytearray(data), dtype=dtype)


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
