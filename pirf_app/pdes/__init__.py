"""Benchmarks. Each module in this folder that defines a PDE registers it on import; a new PDE is one new file."""

import importlib
import pkgutil

from ..common.checks import InputError
from .base import PDE, Channel, get_pde, pde_names

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["PDE", "Channel", "InputError", "get_pde", "pde_names"]
