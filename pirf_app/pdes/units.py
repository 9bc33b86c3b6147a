"""Benchmarks in the units of a network that was trained elsewhere, with a normalisation of its own."""

import torch
from torch import Tensor

from .base import PDE, InputError, check_number


class Affine:
    """Mixed into a benchmark: its fields are offset + scale * x, channel by channel, whatever its own `normalise`."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def normalise(self, fields: Tensor) -> Tensor:
        return (fields - self._column(self.offset, fields)) / self._column(self.scale, fields)

    def denormalise(self, x: Tensor) -> Tensor:
        return x * self._column(self.scale, x) + self._column(self.offset, x)

    def turned(self, x: Tensor, k: int) -> Tensor:
        """A symmetry may change the sign of a field, and so move its offset."""
        return self.normalise(self.transform(self.denormalise(x), k))

    def normalisation(self) -> dict:
        return {"offset": list(self.offset), "scale": list(self.scale)}

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


def in_units(pde: PDE, normalisation: dict) -> PDE:
    """`pde` with the `normalise` that a checkpoint's `normalisation` stands for: `pde` itself where that is its own,
    and an affine one for {"offset": [...], "scale": [...]} with one number (physical units) per channel.

    Raises InputError for anything else: a network sees numbers, and in other units it would draw nonsense."""
    if normalisation == pde.normalisation():
        return pde
    if not isinstance(normalisation, dict) or set(normalisation) != {"offset", "scale"}:
        raise InputError(f"it was trained with another normalisation of {pde.name} fields")
    limits = {"offset": (-1e12, 1e12), "scale": (1e-12, 1e12)}
    values = {}
    for key, (low, high) in limits.items():
        numbers = normalisation[key]
        if not isinstance(numbers, list) or len(numbers) != len(pde.channels):
            raise InputError(f"the normalisation's {key} must be a list of {len(pde.channels)}, one for each channel")
        values[key] = tuple(float(check_number(f"the normalisation's {key}", v, low, high)) for v in numbers)
    return type(f"Affine{type(pde).__name__}", (Affine, type(pde)), values)()
