"""Benchmarks in the units of a network that was trained elsewhere, with a normalisation of its own."""

import torch
from torch import Tensor

from ..common.checks import InputError, check_number
from .base import PDE, get_pde

TRANSPOSED = "transposed"  # of a normalisation: true, or left out


class Units(PDE):
    """Mixed into a benchmark: its fields in other units than its own."""

    def turned(self, x: Tensor, k: int) -> Tensor:
        """By way of the physical fields, for a symmetry may change their sign, and so move an offset, or the axes."""
        return self.normalise(self.transform(self.denormalise(x), k))

    def __reduce__(self):
        return in_units, (get_pde(self.name, self.own_parameters), self.normalisation())


class Affine(Units):
    """Mixed into a benchmark: its fields are offset + scale * x, channel by channel, whatever its own `normalise`."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def normalise(self, fields: Tensor) -> Tensor:
        return (fields - self._column(self.offset, fields)) / self._column(self.scale, fields)

    def denormalise(self, x: Tensor) -> Tensor:
        return x * self._column(self.scale, x) + self._column(self.offset, x)

    def normalisation(self) -> dict:
        return {"offset": list(self.offset), "scale": list(self.scale)}

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


class Transposed(Units):
    """Mixed into a benchmark: what is normalised has the rows and the columns of its fields exchanged."""

    def normalise(self, fields: Tensor) -> Tensor:
        return exchanged(super().normalise(fields))

    def denormalise(self, x: Tensor) -> Tensor:
        return super().denormalise(exchanged(x))

    def turned_change(self, x: Tensor, k: int) -> Tensor:
        return exchanged(super().turned_change(exchanged(x), k))

    def normalisation(self) -> dict:
        return super().normalisation() | {TRANSPOSED: True}


def exchanged(x: Tensor) -> Tensor:
    """`[..., h, w]` as `[..., w, h]`."""
    return x.transpose(-2, -1).contiguous()


def mixed(kind: type, pde: PDE, **values) -> PDE:
    """`pde` in the units of `kind`, one of the `Units`, which has these `values`."""
    made = type(f"{kind.__name__}{type(pde).__name__}", (kind, type(pde)), values)()
    made.__dict__.update(pde.__dict__)
    return made


def in_units(pde: PDE, normalisation: dict) -> PDE:
    """`pde` with the `normalise` that a checkpoint's `normalisation` stands for: `pde` itself where that is its own,
    and an affine one for {"offset": [...], "scale": [...]} with one number (physical units) per channel. Either with
    "transposed": True for a network that sees rows and columns exchanged; everything else keeps the order of `pde`.

    Raises InputError for anything else: a network sees numbers, and in other units it would draw nonsense."""
    if normalisation == pde.normalisation():
        return pde
    if isinstance(normalisation, dict) and TRANSPOSED in normalisation:
        if normalisation[TRANSPOSED] is not True:
            raise InputError(f"the normalisation's {TRANSPOSED} must be true, or be left out")
        return mixed(Transposed, in_units(pde, {k: v for k, v in normalisation.items() if k != TRANSPOSED}))
    if not isinstance(normalisation, dict) or set(normalisation) != {"offset", "scale"}:
        raise InputError(f"it was trained with another normalisation of {pde.name} fields")
    limits = {"offset": (-1e12, 1e12), "scale": (1e-12, 1e12)}
    values = {}
    for key, (low, high) in limits.items():
        numbers = normalisation[key]
        if not isinstance(numbers, list) or len(numbers) != len(pde.channels):
            raise InputError(f"the normalisation's {key} must be a list of {len(pde.channels)}, one for each channel")
        values[key] = tuple(float(check_number(f"the normalisation's {key}", v, low, high)) for v in numbers)
    return mixed(Affine, pde, **values)
