"""The names of methods and what their figures say, in words."""

from collections.abc import Iterator

from ..common.text import percent, times
from ..diffusion.guidance import GUIDANCE
from ..pdes import PDE
from .figures import SAME, flags, unconverged

TITLES = {"base": "Baseline"} | {name: guidance.title for name, guidance in GUIDANCE.items()}
REINTERPRETED = 0.01  # a share of the inputs that is worth a word
OWN = "my:"  # begins the method of a model that belongs to one visitor of the page


def method_title(method: str) -> str:
    """A method's name as people write it: "base" -> "Baseline", "pirf" -> "PIRF", "pirf@OWNER/NAME" (from the Hub) ->
    "PIRF (OWNER/NAME)"; a visitor's own model has its name."""
    if method.startswith(OWN):
        return method.removeprefix(OWN)
    method, _, repo = method.partition("@")
    title = TITLES.get(method) or (method.upper() if len(method) <= 4 else method.capitalize())
    return f"{title} ({repo})" if repo else title


def verdicts(rows: list[dict], floors: dict) -> list[str]:
    """What the figures say: first which methods gave no samples at all, then a sentence for every other one against
    the first, or one for a method alone."""
    far = {row["method"]: found for row in rows if (found := unconverged(row, floors))}
    told = [
        f"{method_title(method)}: {found} at {rows[0]['steps']} steps, so its figures say nothing; take more steps."
        for method, found in far.items()
    ]
    first, *others = rows
    if first["method"] in far:
        return told
    good = [row for row in others if row["method"] not in far]
    return told + ([verdict(row, first) for row in good] or [alone(first, floors)])


def alone(row: dict, floors: dict) -> str:
    """One method in words, with nothing to compare it with but solver data."""
    return (
        f"{method_title(row['method'])}: residual RMS {row['residual_rms']:.3g} at {row['steps']} steps "
        f"(solver data: {floors['residual_rms']:.1g}); forward-solve error {percent(row['solve_error_median'])}."
    )


def verdict(row: dict, first: dict) -> str:
    """One method against the first in words, whichever way it went."""
    ratio, error = row["residual_ratio"], row["solve_error_ratio"]
    if abs(ratio - 1) <= SAME:
        residual = "the same residual"
    elif abs(ratio - 1) < 0.1:
        residual = f"{percent(abs(ratio - 1))} {'lower' if ratio < 1 else 'higher'} residual"
    else:
        residual = f"{times(1 / ratio)} lower residual" if ratio < 1 else f"{times(ratio)} higher residual"
    against = f"{percent(row['solve_error_median'])} against {percent(first['solve_error_median'])}"
    aside = ", which is worse" if error > 1 + SAME else ""
    title, steps = method_title(row["method"]), row["steps"]
    return f"{title}: {residual} at the same {steps} steps; forward-solve error {against}{aside}."


def warnings(pde: PDE, row: dict, first: dict, floors: dict) -> Iterator[str]:
    title = method_title(row["method"])
    for flag in flags(row, first, floors):
        yield f"{title}: {flag}."
    if row["reinterpreted"] > REINTERPRETED:
        yield f"{title}: {percent(row['reinterpreted'])} of {pde.reinterpretation}."
    for channel, mine, theirs in zip(pde.channels, row["amplitude"], first["amplitude"], strict=True):
        change = mine / max(theirs, 1e-30) - 1
        if abs(change) > 0.05:
            direction = "smaller" if change < 0 else "larger"
            yield f"{title}: the {channel.title} varies {percent(abs(change))} {direction} than the first method's."
