"""Fields of one's own from a file: .npz, .npy, .mat (version 5 and 7.3) or .h5, as physical fields of a benchmark.

Only arrays of numbers are read: nothing in a file is executed, and a size is looked at before memory is taken.
"""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.io.matlab import MatReadError
from torch import Tensor

from ..common.checks import InputError, shown
from ..common.text import megabytes
from ..pdes import PDE
from ..pdes.units import in_units

MAX_BYTES = 2 * 10**9  # of an array
ENDINGS = (".npz", ".npy", ".mat", ".h5", ".hdf5")
HDF5 = b"\x89HDF\r\n\x1a\n"
UNREADABLE = (OSError, ValueError, LookupError, TypeError, EOFError, NotImplementedError, RuntimeError, MemoryError)
UNREADABLE += (MatReadError, zipfile.BadZipFile, zlib.error, struct.error, OverflowError, RecursionError)


def read_arrays(path: Path, most: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of numbers in a file, by name; that of an .npy file is called "fields". Raises InputError, too where
    they are more than `most` bytes together."""
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path.name} is not a file of fields: read are {', '.join(ENDINGS)}")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        if head == HDF5:
            found = _hdf5(path, most, matlab=path.suffix.lower() == ".mat")
        elif path.suffix.lower() == ".mat":
            found = _matlab(path, most)
        elif path.suffix.lower() == ".npz":
            found = _npz(path, most)
        elif path.suffix.lower() == ".npy":
            found = {"fields": _npy(path, most)}
        else:
            raise InputError(f"{path.name} is no HDF5 file")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except UNREADABLE as error:
        raise InputError(f"{path.name} cannot be read ({type(error).__name__}: {shown(str(error), 100)})") from None
    found = {name: array for name, array in found.items() if array.dtype.kind in "fiub" and array.ndim >= 2}
    if not found:
        raise InputError(f"{path.name} has no array of numbers with two axes or more")
    return found


def _check_size(name: str, size: float, most: int) -> None:
    if size > most:
        raise InputError(f"{name} is {megabytes(size)}, and {megabytes(most)} are read at most: split it")


def _npy(path: Path, most: int) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_size(path.name, array.nbytes, most)
    return np.array(array)


def _npz(path: Path, most: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        _check_size(f"{path.name}, unpacked,", sum(part.file_size for part in archive.infolist()), most)
    with np.load(path, allow_pickle=False) as data:
        # Read by themselves: text or objects beside the fields do no harm, and are not looked at.
        names = [name for name in data.files if f"{name}.npy" in data.zip.namelist()]
        sizes = {name: size for name in names if (size := _numeric_size(data.zip.open(f"{name}.npy"))) is not None}
        _check_size(f"{path.name}, unpacked,", sum(sizes.values()), most)
        return {name: data[name] for name in sizes}


def _numeric_size(file) -> float | None:
    """The bytes of the array of numbers in an open .npy file, by what its head says; None for anything else."""
    with file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return np.prod(shape, dtype=np.float64) * dtype.itemsize if dtype.kind in "fiub" else None


def _matlab(path: Path, most: int) -> dict[str, np.ndarray]:
    from scipy.io import loadmat, whosmat

    sizes = [np.prod(shape, dtype=np.float64) * (8 if kind == "double" else 4) for _, shape, kind in whosmat(path)]
    _check_size(f"{path.name}, unpacked,", sum(sizes), most)
    return {name: value for name, value in loadmat(path).items() if isinstance(value, np.ndarray)}


def _hdf5(path: Path, most: int, matlab: bool) -> dict[str, np.ndarray]:
    """The data sets of an HDF5 file. MATLAB counts the first axis first, HDF5 the last: its axes are turned back."""
    import h5py

    found: dict[str, h5py.Dataset] = {}

    def take(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "fiub" and not name.startswith("#"):
            found[name] = node

    with h5py.File(path, "r") as file:
        file.visititems(take)
        _check_size(f"{path.name}, unpacked,", sum(node.size * node.dtype.itemsize for node in found.values()), most)
        turned = {name: matlab or "MATLAB_class" in node.attrs for name, node in found.items()}
        return {name: node[()].T if turned[name] else node[()] for name, node in found.items()}


def read_fields(
    path: Path,
    pde: PDE,
    keys: Mapping[str, str] | None = None,
    scaling: str | dict = "physical",
    most: int = MAX_BYTES,
) -> Tensor:
    """Fields `[n, c, N, N]` of `pde` in physical units, float64, from a file.

    `keys` says which array holds which channel (or "fields" all of them); without it, arrays called as the channels
    are taken, or the only one of a shape that fits. `scaling` is "physical", "published" or "normalised" (this app's
    own), or {"offset": [...], "scale": [...]}, one number a channel: what the file's 0 and 1 stand for; `most`
    as in `read_arrays`. Raises InputError with one sentence."""
    arrays, name = read_arrays(path, most), Path(path).name
    fields = _arranged(arrays, pde, dict(keys or {}), name)
    pde.check_fields(fields)
    if len(fields) == 0:
        raise InputError(f"{name} holds no sample")
    if fields.shape[-1] < pde.min_resolution:
        raise InputError(
            f"{name} has fields of {fields.shape[-1]}x{fields.shape[-1]}; {pde.name} needs {pde.min_resolution}"
        )
    return in_physical_units(fields, pde, scaling)


def find_keys(arrays: Mapping[str, np.ndarray], pde: PDE) -> dict[str, str]:
    """Which array holds which channel of `pde`, or "fields" all of them; {} where that is not plain."""
    names = [channel.name for channel in pde.channels]
    found = {name: key for name in names for key in (name, *pde.published_names.get(name, ())) if key in arrays}
    if len(found) == len(names) and (len(names) > 1 or "fields" not in arrays):
        return found
    if "fields" in arrays:
        return {"fields": "fields"}
    fitting = [name for name, array in arrays.items() if _whole(array, len(names)) is not None]
    return {"fields": fitting[0]} if len(fitting) == 1 else {}


def described(arrays: Mapping[str, np.ndarray]) -> str:
    """Names and shapes, for a message."""
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def _arranged(arrays: dict[str, np.ndarray], pde: PDE, keys: dict[str, str], file: str) -> Tensor:
    names, there = [channel.name for channel in pde.channels], described(arrays)
    if unknown := sorted(set(keys) - {"fields", *names}):
        raise InputError(f"{pde.name} has no channel {shown(unknown[0])}: its channels are {', '.join(names)}")
    for key in keys.values():
        if key not in arrays:
            raise InputError(f"{file} has no array {shown(key)}; it has {there}")
    keys = keys or find_keys(arrays, pde)
    if not keys:
        raise InputError(f"{file} has {there}: say by keys which holds {' and which '.join(names)}")
    if set(keys) >= set(names):
        parts = [arrays[keys[name]] for name in names]
        if len({part.shape for part in parts}) > 1:
            raise InputError(f"the channels in {file} have different shapes: {there}")
        if parts[0].ndim not in (2, 3):
            raise InputError(f"a channel in {file} must be [n, N, N] or [N, N], not {list(parts[0].shape)}")
        return torch.from_numpy(np.stack([part.reshape(-1, *part.shape[-2:]) for part in parts], 1)).double()
    if "fields" not in keys:
        raise InputError(f"the keys must name an array for every channel ({', '.join(names)}), or one for fields")
    fields = _whole(arrays[keys["fields"]], len(names))
    if fields is None:
        wanted = f"[n, {len(names)}, N, N], or with the channels last"
        raise InputError(f"{pde.name} fields must have shape {wanted}, not {list(arrays[keys['fields']].shape)}")
    return torch.from_numpy(np.ascontiguousarray(fields)).double()


def _whole(array: np.ndarray, channels: int) -> np.ndarray | None:
    """An array as `[n, c, h, w]`, whether a sample or many, channels first or last; None for another shape."""
    if array.ndim == 2 and channels == 1:
        return array[None, None]
    if array.ndim == 3 and channels == 1 and array.shape[1] == array.shape[2] and array.shape[0] != array.shape[1]:
        return array[:, None]
    many = array[None] if array.ndim == 3 else array
    if many.ndim != 4:
        return None
    if many.shape[1] == channels:
        return many
    return np.moveaxis(many, -1, 1) if many.shape[-1] == channels else None


def chosen_scaling(scaling: str, offset: list | None, scale: list | None) -> str | dict:
    """A scaling as `read_fields` takes it, by name or by two lists of numbers, one a channel. Raises InputError."""
    if (offset is None) != (scale is None):
        raise InputError("give both an offset and a scale, or neither")
    if offset is None or scale is None:
        return scaling
    if scaling != "physical":
        raise InputError(f"give the scaling {shown(scaling)}, or an offset and a scale, not both")
    return {"offset": offset, "scale": scale}


def in_physical_units(fields: Tensor, pde: PDE, scaling: str | dict) -> Tensor:
    """`fields` in another scaling, in physical units. Raises InputError for a scaling that `pde` does not have."""
    if scaling == "physical":
        return fields
    if scaling == "normalised":
        return pde.denormalise(fields)
    if scaling == "published":
        scaling = pde.published_scaling
        if scaling is None:
            raise InputError(f"there is no published scaling of {pde.name}: give an offset and a scale")
    if not isinstance(scaling, dict):
        raise InputError(f"the scaling must be physical, published or normalised, not {shown(scaling)}")
    return in_units(pde, scaling).denormalise(fields)


def split_samples(fields: Tensor, pde: PDE) -> tuple[list[int], list[tuple[int, str]]]:
    """Which samples can be measured, and what is wrong with each of the others."""
    good, bad = [], []
    for k, field in enumerate(fields):
        where = field.float().isfinite().logical_not().nonzero()  # single precision is what is measured in
        if len(where):
            channel, row, column = where[0].tolist()
            name = pde.channels[channel].title
            bad.append((k, f"{name} is not a finite number at row {row}, column {column}"))
        else:
            good.append(k)
    return good, bad
