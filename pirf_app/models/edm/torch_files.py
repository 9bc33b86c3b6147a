"""What torch.save writes, read as data: a zip archive of a pickle and raw storages, or, in its legacy format, a row of
pickles and the storages after them.

The pickle goes through `inert_pickle.py`. A storage is a place in the file: its size is compared with what the pickle
says of it before a byte is copied, and all that an archive lists is together no larger than the archive.
"""

import io
import os
import re
import struct
from collections.abc import Set
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ...common.checks import InputError, shown
from ...common.text import megabytes
from .pickle_reader import Name, Readable, read

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
MAX_PARTS, MAX_PICKLE = 20_000, 64 * 10**6  # a published network has about 900 storages, and a pickle of 200 kB
END, HEADER, LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x2041  # flags of a zip archive's part: by either method, or with its header hidden
Place = tuple[int, int]  # where bytes begin in a file, and how many they are


@dataclass(eq=False)
class Stored:
    """A storage: so many numbers, somewhere in a file."""

    file: Readable
    places: dict[str, Place]
    key: str
    dtype: torch.dtype
    count: int

    @cached_property
    def numbers(self) -> Tensor:
        """`[count]`. Raises InputError."""
        if self.key not in self.places:
            raise InputError(f"it lacks the tensor storage {shown(self.key)}, so it is damaged or cut short")
        start, size = self.places[self.key]
        if size == 0 or size != self.count * self.dtype.itemsize:
            raise InputError(f"it has a tensor storage of {size} bytes that does not hold what it says")
        self.file.seek(start)
        return torch.frombuffer(bytearray(self.file.read(size)), dtype=self.dtype)


@dataclass(eq=False)
class Storages:
    """The storages of a file by key: their places, and those that its pickle has named."""

    file: Readable
    places: dict[str, Place] = field(default_factory=dict)
    named: dict[str, Stored] = field(default_factory=dict)

    def at(self, reference: object) -> Stored | Name:
        """What a persistent id of the pickle stands for: a storage, or in the legacy format a class, named beside
        its source. Raises InputError."""
        match reference:
            case ("module", Name() as name, _, _):
                return name
            case ("storage", Name(kind), str(key), _, int(count), *view) if kind in STORAGES and view in ([], [None]):
                new = Stored(self.file, self.places, key, STORAGES[kind], count)
                stored = self.named.setdefault(key, new)
                if (stored.dtype, stored.count) == (new.dtype, new.count):
                    return stored
        raise InputError("it has a tensor whose storage is not one whole storage")


def legacy(file: Readable, known: Set[str]) -> object:
    """What the legacy format holds, `known` as for `inert_pickle.read`: magic number, version, system, content and keys
    as a pickle each, then the elements of every storage after their number. Raises InputError."""
    file.seek(0, os.SEEK_END)
    end = file.tell()
    file.seek(0)
    magic, version, system = (read(file, frozenset()) for _ in range(3))
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, version) != (LEGACY_MAGIC, LEGACY_VERSION) or not little:
        raise InputError("it has a part that is not in torch.save's legacy format, little-endian")
    storages = Storages(file)
    content, keys = read(file, known, storages.at), read(file, frozenset())
    named = storages.named
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(named):
        raise InputError("it has a tensor whose storage is not one whole storage")
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        start, size = file.tell(), count * named[key].dtype.itemsize
        if start + size > end:
            raise InputError("it is damaged or cut short: a tensor storage goes beyond its end")
        storages.places[key] = start, size
        file.seek(start + size)
    if file.tell() != end:
        raise InputError("it is damaged: there is more in it than its tensor storages")
    return content


def archive(file: Readable, known: Set[str]) -> object:
    """What a zip archive of torch.save holds, `known` as for `inert_pickle.read`: FOLDER/data.pkl, whose storages are
    FOLDER/data/KEY, uncompressed. Raises InputError."""
    places = parts(file)
    folders = [name.removesuffix("/data.pkl") for name in places if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(folders) != 1:
        raise InputError(f"it is a zip archive with {len(folders)} files data.pkl, where torch.save writes one")
    inside = {name.removeprefix(f"{folders[0]}/"): place for name, place in places.items()}
    if "byteorder" in inside and taken(file, inside["byteorder"]) != b"little":
        raise InputError("it has numbers that are not little-endian")
    if inside["data.pkl"][1] > MAX_PICKLE:
        limit = megabytes(MAX_PICKLE)
        raise InputError(f"it has a data.pkl of {megabytes(inside['data.pkl'][1])}; a network's has at most {limit}")
    storages = {name.removeprefix("data/"): place for name, place in inside.items() if name.startswith("data/")}
    return read(io.BytesIO(taken(file, inside["data.pkl"])), known, Storages(file, storages).at)


def taken(file: Readable, place: Place) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def parts(file: Readable) -> dict[str, Place]:
    """Where the parts of a zip archive are, by name, as its directory and their own headers agree. Checksums are not
    looked at, for torch.save may leave them out. Raises InputError."""
    damaged = InputError("it is a zip archive that is cut short, or that torch.save did not write")
    file.seek(0, os.SEEK_END)
    end = file.tell() - END.size  # where torch.save ends an archive; its zip64 record says the same
    mark, *disks, here, count, size, start, comment = END.unpack(taken(file, (max(end, 0), END.size)).ljust(END.size))
    if mark != b"PK\x05\x06" or any(disks) or here != count or comment or start + size > end:
        raise damaged
    if count > MAX_PARTS:
        raise InputError(f"it is a zip archive of {count} parts; a network has at most {MAX_PARTS}")
    directory, found, at, total = taken(file, (start, size)), {}, 0, 0
    for _ in range(count):
        header = directory[at : at + HEADER.size]
        if len(header) < HEADER.size or header[:4] != b"PK\x01\x02":
            raise damaged
        _, _, _, flags, method, _, _, _, packed, length, name, extra, note, _, _, _, offset = HEADER.unpack(header)
        at += HEADER.size
        text, at = directory[at : at + name], at + name + extra + note
        if flags & ENCRYPTED:
            raise InputError("it is an encrypted zip archive")
        if method or packed != length:
            raise InputError("it is a zip archive with compressed parts, where torch.save compresses none: unpack it")
        local = (
            LOCAL.unpack(taken(file, (offset, LOCAL.size)).ljust(LOCAL.size)) if offset + LOCAL.size < start else (b"",)
        )
        begin = offset + LOCAL.size
        if local[0] != b"PK\x03\x04" or taken(file, (begin, local[-2])) != text:
            raise damaged
        begin += local[-2] + local[-1]
        total += length
        key = text.decode("utf-8", "backslashreplace")
        if begin + length > start or total > start or key in found:
            raise damaged
        found[key] = begin, length
    return found


def is_legacy(content: object) -> bool:
    """Whether the first pickle of a file begins the legacy format."""
    return type(content) is int and content == LEGACY_MAGIC
