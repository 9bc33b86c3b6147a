"""How physics enters a diffusion model. Each module in this folder that defines a fine-tuning method registers it on
import; a new method is one new file."""

import importlib
import pkgutil

from .registry import DEFAULT

for _module in sorted((m.name for m in pkgutil.iter_modules(__path__)), key=lambda name: (name != DEFAULT, name)):
    importlib.import_module(f"{__name__}.{_module}")
