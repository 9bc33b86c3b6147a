"""`python -m pirf_app check`: fields of one's own, measured like the samples of a model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.checks import InputError
from ..evaluation.own_data import chosen_scaling, read_fields
from ..evaluation.own_fields import measure_fields
from ..pdes import get_pde, pde_names
from .options import Parameters, named_values, numbers, say


def key_names(text: str | None) -> dict[str, str]:
    """ "a=thresh_a_data,u=thresh_p_data" as a table. Raises InputError."""
    pairs = [part.split("=", 1) for part in (text or "").split(",") if part.strip()]
    if not all(len(pair) == 2 and all(map(str.strip, pair)) for pair in pairs):
        raise InputError(f"--keys must look like a=first_array,u=second_array, not {text!r}")
    return {channel.strip(): name.strip() for channel, name in pairs}


def check(
    file: Annotated[Path, typer.Argument(help=".npz, .npy, .mat or .h5 with fields")],
    pde: Annotated[str, typer.Option(help=f"what they are: {', '.join(pde_names())}")],
    keys: Annotated[
        str | None, typer.Option(help="which array holds what: a=thresh_a_data,u=thresh_p_data, or fields=x")
    ] = None,
    scaling: Annotated[
        str, typer.Option(help="physical, published (as published networks see them) or normalised (as this app's do)")
    ] = "physical",
    offset: Annotated[str | None, typer.Option(help="what the file's 0 stands for, one number a channel")] = None,
    scale: Annotated[str | None, typer.Option(help="what its 1 stands for, one number a channel")] = None,
    parameter: Parameters = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure fields of your own: residual, second stencil, boundary, forward-solve error, conservation, spectrum,
    distribution, beside what solver data scores."""
    problem = get_pde(pde, named_values(parameter))
    given = {"offset": offset, "scale": scale}
    shift = {name: None if text is None else numbers(name, text) for name, text in given.items()}
    fields = read_fields(file, problem, key_names(keys), chosen_scaling(scaling, **shift))
    found = measure_fields(problem, fields)
    for k, why in found.left_out:
        say(f"sample {k} is left out: {why}")
    print(json.dumps(found.to_dict()) if as_json else found.table())
