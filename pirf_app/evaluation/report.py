"""Reports of `evaluate`: read, and their rows as a Markdown table."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ..common.checks import InputError
from ..common.paths import ASSETS
from ..models.library import rank
from ..pdes import get_pde
from .figures import boundary_rounding
from .verdicts import method_title

REPORT = ASSETS / "benchmark" / "report.json"
TABLE, SUMMARY = "benchmark", "summary"  # the names of marks: <!-- name --> ... <!-- /name -->
SUMMARY_STEPS = 10


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}"


def in_words(row: Mapping) -> str:
    """The numbers in a row's equation that are not the default ones on its grid."""
    found = row.get("parameters")
    return get_pde(row["pde"], found).in_words(found) if found else ""


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def boundary(row: dict) -> str:
    above = row["boundary_rms"] > boundary_rounding(get_pde(row["pde"]))
    return number(row["boundary_rms"], 2) if above else "rounding"


SUMMARY_FIGURES = (
    ("residual RMS", "residual_rms", number),
    ("median", "residual_median", number),
    ("by another stencil", "second_residual_rms", number),
    ("forward-solve error", "solve_error_median", "{:.2%}".format),
)
COLUMNS = {
    "PDE": lambda r: ", ".join(filter(None, (r["pde"], in_words(r)))),
    "method": lambda r: r["method"],
    "steps": lambda r: str(r["steps"]),
    "NFE": lambda r: str(r["nfe"]),
    "residual RMS (median)": lambda r: f"{number(r['residual_rms'])} ({number(r['residual_median'])})",
    "boundary RMS": lambda r: boundary(r),
    "forward-solve error (median / p90)": lambda r: f"{r['solve_error_median']:.2%} / {r['solve_error_p90']:.2%}",
    "amplitude": lambda r: " ".join(f"{a:.3f}" for a in r["amplitude"]),
    "diversity": lambda r: ratio(r["diversity"]),
    "conservation": lambda r: share(r["conservation_rate"]),
    "spectrum error": lambda r: f"{r['spectrum_error']:.2f}",
    "sliced W1": lambda r: number(r["sliced_wasserstein"]),
}


def format_table(rows: list[dict], floors: dict[str, dict] | None = None) -> str:
    """A Markdown table of report rows, with a line of solver-data floors after each PDE's rows."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for i, row in enumerate(rows):
        lines.append("| " + " | ".join(show(row) for show in COLUMNS.values()) + " |")
        last = i + 1 == len(rows) or rows[i + 1]["pde"] != row["pde"]
        if floors and last and row["pde"] in floors:
            named = {key: row[key] for key in ("pde", "parameters") if key in row}
            floor = named | {"method": "solver data", "steps": "", "nfe": ""} | floors[row["pde"]]
            lines.append("| " + " | ".join(show(floor) for show in COLUMNS.values()) + " |")
    return "\n".join(lines)


def format_summary(rows: list[dict]) -> str:
    """A Markdown table of each PDE's methods at `SUMMARY_STEPS` steps; in brackets the ratio to the baseline."""
    found = {(row["pde"], row["method"]): row for row in rows if row["steps"] == SUMMARY_STEPS}
    heads = ["", "method", "NFE", *(title for title, _, _ in SUMMARY_FIGURES), "conservation"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for pde in sorted(pde for pde, method in found if method == "base"):
        base = found[pde, "base"]
        for method in sorted((method for name, method in found if name == pde), key=rank):
            row = found[pde, method]
            cells = [pde.capitalize() if row is base else "", method_title(method), str(row["nfe"])]
            for _, name, show in SUMMARY_FIGURES:
                against = "" if row is base else f" ({row[name] / base[name]:.2f})"
                cells.append(show(row[name]) + against)
            lines.append("| " + " | ".join([*cells, share(row["conservation_rate"])]) + " |")
    return "\n".join(lines)


def merge(reports: list[dict]) -> dict:
    """One report of several; where two have a row or a floor for the same, the later one's counts. Raises InputError
    where they are of different equations: there is one line of solver data for each."""
    rows, merged = {}, {"floors": {}}
    for report in reports:
        keys = ("pde", "resolution", "method", "steps", "solver")
        rows |= {(*(row.get(key, "") for key in keys), in_words(row)): row for row in report["rows"]}
        merged = report | {"floors": merged["floors"] | report["floors"]}
    numbers: dict[str, str] = {}
    for row in rows.values():
        if numbers.setdefault(row["pde"], in_words(row)) != in_words(row):
            names = " and ".join(words or "the default ones" for words in (numbers[row["pde"]], in_words(row)))
            raise InputError(f"reports on {row['pde']} with different parameters cannot be one: {names}")
    return merged | {"rows": [rows[key] for key in sorted(rows)]}


def read_report(path: Path) -> dict:
    """The report `{rows, floors, environment}` in a file. Raises InputError."""
    try:
        report = json.loads(path.read_text())
        return {"rows": list(report["rows"]), "floors": dict(report["floors"]), "environment": report["environment"]}
    except FileNotFoundError:
        raise InputError(f"there is no report {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a report of this app ({type(error).__name__}: {error})") from None


def replace_tables(path: Path, tables: dict[str, str]) -> str:
    """The text of a file with what stands between the marks of each table replaced. Raises InputError where there are
    no marks for any of them."""
    text, missing = path.read_text(), []
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start in text and end in text:
            text = re.sub(f"{start}.*?{end}", lambda _, t=f"{start}\n{table}\n{end}": t, text, flags=re.DOTALL)
        else:
            missing.append(f"{start} and {end}")
    if len(missing) == len(tables):
        raise InputError(f"{path} has no lines {' or '.join(missing)} to put a table between")
    return text
