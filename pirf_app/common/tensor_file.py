"""Tensors to a safetensors file."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from .files import replacing


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes `tensors` and `metadata`, replacing the file atomically. Raises InputError if that cannot be done."""
    with replacing(path) as place:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, place, metadata)
