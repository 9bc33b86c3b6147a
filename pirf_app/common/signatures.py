"""Functions whose parameters are known only when the program has started, spelled out for those who read signatures."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def spelled_out(function: Callable[..., Any], annotations: Mapping[str, Any], before: str) -> inspect.Signature:
    """The signature of `function`, which takes any keywords, with parameters of those names and annotations in their
    place, None by default. They stand before the parameter `before`; those that it names itself stay where they are."""
    signature = inspect.signature(function)
    known = signature.parameters
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    new = [
        inspect.Parameter(name, kind, default=None, annotation=annotation)
        for name, annotation in annotations.items()
        if name not in known
    ]
    own = [parameter for parameter in known.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    at = [parameter.name for parameter in own].index(before)
    return signature.replace(parameters=[*own[:at], *new, *own[at:]])
