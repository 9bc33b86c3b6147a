"""Settings as the query string of a link, and back."""

from collections.abc import Mapping
from urllib.parse import urlencode

from ...common.checks import InputError, shown
from ...evaluation.comparison import Settings, available, check_settings, usual
from ...models.library import AnyLibrary
from ..drawing.number_fields import read_number

NUMBERS = ("sigma_min", "sigma_max", "rho")


def to_query(settings: Settings) -> str:
    """`pde=darcy&methods=base,pirf&steps=10&n=4&seed=0`, the resolution if one was chosen, and what was changed in the
    noise schedule."""
    values = {"pde": settings.pde, "methods": ",".join(settings.methods), "steps": settings.steps, "n": settings.n}
    values["seed"] = settings.seed
    values |= {k: getattr(settings, k) for k in ("resolution", *NUMBERS) if getattr(settings, k) is not None}
    return urlencode(values, safe=",")


def number(text: str, name: str) -> int | float:
    found = read_number(text)
    if not isinstance(found, int | float):
        raise InputError(f"{name} must be a number, not {shown(text)}")
    return found


def from_query(library: AnyLibrary, query: Mapping[str, str], default: Settings) -> Settings:
    """The settings that a link asks for, the rest from `default`. Raises InputError."""
    pde = query.get("pde", default.pde)
    asked = {k: number(query[k], k) for k in ("resolution", *NUMBERS) if query.get(k)}
    methods = [m for m in query["methods"].split(",") if m] if "methods" in query else list(default.methods)
    if "methods" not in query and pde != default.pde:
        methods = usual(available(library, pde, asked.get("resolution")))
    whole = {k: number(query[k], k) if k in query else getattr(default, k) for k in ("steps", "n", "seed")}
    return check_settings(library, pde, methods, **whole, **asked)
