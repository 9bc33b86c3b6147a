"""Tensors to a safetensors file."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .pdes.base import InputError, shown


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes `tensors` and `metadata`, replacing the file atomically. Raises InputError if that cannot be done."""
    temporary = Path(path).with_suffix(".tmp")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata)
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be written ({shown(str(error), 120)})") from None
