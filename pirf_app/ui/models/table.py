"""All models as one table, as HTML."""

from html import escape

from ...common.checks import InputError
from ...common.text import percent
from ...evaluation.verdicts import OWN, method_title
from ...hub.collection import BUNDLED, Arrival
from ...models.manifest import Entry, is_figure
from ...pdes import get_pde
from ..drawing import html
from ..serving.own_models import OwnModel
from ..serving.visitors import Visitors

COLUMNS = (
    ("Model", ""),
    ("Equation", ""),
    ("Method", ""),
    ("Grid", ""),
    ("From", ""),
    ("Tuned from", ""),
    ("Residual RMS", ""),
    ("Forward-solve error", "median"),
    ("Size", ""),
    ("SHA-256", "of the file"),
)


def own_models(visitors: Visitors, session: str | None) -> list[OwnModel]:
    """A session's own models, without making it a visitor if it has none."""
    visitor = visitors.known(session) if session else None
    return visitor.models.mine() if visitor else []


def entries(visitors: Visitors, session: str | None) -> list[Entry]:
    """What a session can use: everybody's models, then its own. Raises InputError if the manifest cannot be read."""
    return visitors.library(session).manifest()


def figure(figures: dict, name: str, show) -> str:
    value = figures.get(name)
    return show(value) if value is not None and is_figure(value) else "–"


def measured_at(figures: dict) -> str:
    """With how many steps the samples were drawn that the figures are of, where they say so."""
    steps = figures.get("steps")
    return f"<small>at {steps} steps</small>" if isinstance(steps, int) and not isinstance(steps, bool) else ""


def title(entry: Entry) -> str:
    try:
        return get_pde(entry["pde"], entry.get("parameters", {})).full_title
    except InputError:  # an entry that a hand wrote into a manifest
        return entry["pde"]


def row(entry: Entry, names: dict[str, str]) -> str:
    parent = entry["parent"]
    own = entry["method"].startswith(OWN)
    cells = [
        escape(entry["name"]),
        escape(title(entry)),
        escape(method_title(entry["kind"] if own else entry["method"].partition("@")[0])),
        f"{entry['resolution']}²",
        escape(entry.get("source", BUNDLED)),
        escape(names.get(parent, f"{parent[:12]}…")) if parent else "–",
        figure(entry["figures"], "residual_rms", lambda v: f"{v:.3g}") + measured_at(entry["figures"]),
        figure(entry["figures"], "solve_error_median", percent),
        f"{entry['size'] / 1e6:.1f} MB",
        f'<code title="{escape(entry["sha256"])}">{escape(entry["sha256"][:12])}</code>',
    ]
    mark = ' class="own"' if own else ""
    return f'<tr{mark}><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>'


def table(entries: list[Entry]) -> str:
    """A row for every entry, those of one equation together."""
    names = {entry["sha256"]: entry["name"] for entry in reversed(entries)}
    ordered = sorted(entries, key=lambda e: (e["method"].startswith(OWN), e["pde"], "@" in e["method"]))
    head = "".join(f'<th scope="col">{name}{f"<small>{note}</small>" if note else ""}</th>' for name, note in COLUMNS)
    rows = "".join(row(entry, names) for entry in ordered)
    return f'<div class="figures models"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def arriving(arrivals: list[Arrival]) -> str:
    """How far the repositories are that this server adds by itself; nothing where all went well."""
    found = []
    for arrival in arrivals:
        transfer = arrival.transfer
        if arrival.state == "fetching":
            found.append(html.bar(f"{arrival.text}: {transfer.progress()}", transfer.done, transfer.total))
        elif arrival.sentence:
            found.append(html.problem(arrival.sentence))
    return "".join(found)
