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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers in a file, by name; that of an .npy file is called "fields". Raises InputError."""
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path.name} is not a file of fields: read are {', '.join(ENDINGS)}")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        if head == HDF5:
            found = _hdf5(path, matlab=path.suffix.lower() == ".mat")
        elif path.suffix.lower() == ".mat":
            found = _matlab(path)
        elif path.suffix.lower() == ".npz":
            found = _npz(path)
        elif path.suffix.lower() == ".npy":
            found = {"fields": _npy(path)}
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


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{name} is {megabytes(size)}, and {megabytes(MAX_BYTES)} are read at most: split it")


def _npy(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_size(path.name, array.nbytes)
    return np.array(array)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            _check_size(part.filename, part.file_size)
    with np.load(path, allow_pickle=False) as data:
        # Read by themselves: text or objects beside the fields do no harm, and are not looked at.
        kinds = {name: data.zip.open(f"{name}.npy") for name in data.files if f"{name}.npy" in data.zip.namelist()}
        return {name: data[name] for name, file in kinds.items() if _is_numeric(file)}


def _is_numeric(file) -> bool:
    with file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        _check_size("an array in it", int(np.prod(shape, dtype=np.float64)) * dtype.itemsize)
        return dtype.kind in "fiub"


def _matlab(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat, whosmat

    for name, shape, kind in whosmat(path):
        _check_size(name, int(np.prod(shape, dtype=np.float64)) * (8 if kind == "double" else 4))
    return {name: value for name, value in loadmat(path).items() if isinstance(value, np.ndarray)}


def _hdf5(path: Path, matlab: bool) -> dict[str, np.ndarray]:
    """The data sets of an HDF5 file. MATLAB counts the first axis first, HDF5 the last: its axes are turned back."""
    import h5py

    found: dict[str, np.ndarray] = {}

    def take(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "fiub" and not name.startswith("#"):
            _check_size(name, node.size * node.dtype.itemsize)
            turned = matlab or "MATLAB_class" in node.attrs
            found[name] = node[()].T if turned else node[()]

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return found


def read_fields(
    path: Path, pde: PDE, keys: Mapping[str, str] | None = None, scaling: str | dict = "physical"
) -> Tensor:
    """Fields `[n, c, N, N]` of `pde` in physical units, float64, from a file.

    `keys` says which array holds which channel (or "fields" all of them); without it, arrays called as the channels
    are taken, or the only one of a shape that fits. `scaling` is "physical", "published" or "normalised" (this app's
    own), or {"offset": [...], "scale": [...]}, one number a channel: what the file's 0 and 1 stand for. Raises
    InputError with one sentence."""
    arrays, name = read_arrays(path), Path(path).name
    fields = _arranged(arrays, pde, dict(keys or {}), name)
    pde.check_fields(fields)
    if len(fields) == 0:
        raise InputError(f"{name} holds no sample")
    if fields.shape[-1] < pde.min_resolution:
        raise InputError(
            f"{name} has fields of {fields.shape[-1]}x{fields.shape[-1]}; {pde.name} needs {pde.min_resolution}"
        )
    return in_physical_units(fields, pde, scaling)


def _arranged(arrays: dict[str, np.ndarray], pde: PDE, keys: dict[str, str], file: str) -> Tensor:
    names = [channel.name for channel in pde.channels]
    there = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    if unknown := sorted(set(keys) - {"fields", *names}):
        raise InputError(f"{pde.name} has no channel {shown(unknown[0])}: its channels are {', '.join(names)}")
    for key in keys.values():
        if key not in arrays:
            raise InputError(f"{file} has no array {shown(key)}; it has {there}")
    chosen = keys or {
        name: key for name in names for key in (name, *pde.published_names.get(name, ())) if key in arrays
    }
    if set(chosen) >= set(names) and (len(names) > 1 or "fields" not in arrays):
        parts = [arrays[chosen[name]] for name in names]
        if len({part.shape for part in parts}) > 1:
            raise InputError(f"the channels in {file} have different shapes: {there}")
        if parts[0].ndim not in (2, 3):
            raise InputError(f"a channel in {file} must be [n, N, N] or [N, N], not {list(parts[0].shape)}")
        return torch.from_numpy(np.stack([part.reshape(-1, *part.shape[-2:]) for part in parts], 1)).double()
    if keys and "fields" not in keys:
        raise InputError(f"--keys must name an array for every channel ({', '.join(names)}), or one for fields")
    whole = keys.get("fields") or ("fields" if "fields" in arrays else None)
    if whole is None:
        fitting = [name for name, array in arrays.items() if _whole(array, len(names)) is not None]
        if len(fitting) != 1:
            raise InputError(f"{file} has {there}: say with --keys which holds {' and which '.join(names)}")
        whole = fitting[0]
    fields = _whole(arrays[whole], len(names))
    if fields is None:
        wanted = f"[n, {len(names)}, N, N], or with the channels last"
        raise InputError(f"{pde.name} fields must have shape {wanted}, not {list(arrays[whole].shape)}")
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


def in_physical_units(fields: Tensor, pde: PDE, scaling: str | dict) -> Tensor:
    """`fields` in another scaling, in physical units. Raises InputError for a scaling that `pde` does not have."""
    if scaling == "physical":
        return fields
    if scaling == "normalised":
        return pde.denormalise(fields)
    if scaling == "published":
        scaling = pde.published_scaling
        if scaling is None:
            raise InputError(f"there is no published scaling of {pde.name}: give --offset and --scale")
    if not isinstance(scaling, dict):
        raise InputError(f"the scaling must be physical, published or normalised, not {shown(scaling)}")
    return in_units(pde, scaling).denormalise(fields)


def split_samples(fields: Tensor, pde: PDE) -> tuple[list[int], list[tuple[int, str]]]:
    """Which samples can be measured, and what is wrong with each of the others."""
    good, bad = [], []
    for k, field in enumerate(fields):
        where = field.isfinite().logical_not().nonzero()
        if len(where):
            channel, row, column = where[0].tolist()
            name = pde.channels[channel].title
            bad.append((k, f"{name} is not a finite number at row {row}, column {column}"))
        else:
            good.append(k)
    return good, bad
