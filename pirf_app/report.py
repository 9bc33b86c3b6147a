"""Reports of `evaluate`: read, and their rows as a Markdown table."""

import json
import re
from pathlib import Path

from .pdes import InputError

REPORT = Path(__file__).resolve().parents[1] / "assets" / "benchmark" / "report.json"
MARKS = "<!-- benchmark -->", "<!-- /benchmark -->"


def number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


COLUMNS = {
    "PDE": lambda r: r["pde"],
    "method": lambda r: r["method"],
    "steps": lambda r: str(r["steps"]),
    "NFE": lambda r: str(r["nfe"]),
    "residual RMS": lambda r: number(r["residual_rms"]),
    "boundary RMS": lambda r: number(r["boundary_rms"], 2),
    "forward-solve error (median / p90)": lambda r: f"{r['solve_error_median']:.2%} / {r['solve_error_p90']:.2%}",
    "amplitude": lambda r: " ".join(f"{a:.3f}" for a in r["amplitude"]),
    "diversity": lambda r: ratio(r["diversity"]),
    "conservation": lambda r: f"{r['conservation_rate']:.0%}",
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
            floor = {"pde": row["pde"], "method": "solver data", "steps": "", "nfe": ""} | floors[row["pde"]]
            lines.append("| " + " | ".join(show(floor) for show in COLUMNS.values()) + " |")
    return "\n".join(lines)


def read_report(path: Path) -> dict:
    """The report `{rows, floors, environment}` in a file. Raises InputError."""
    try:
        report = json.loads(path.read_text())
        return {"rows": list(report["rows"]), "floors": dict(report["floors"]), "environment": report["environment"]}
    except FileNotFoundError:
        raise InputError(f"there is no report {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a report of this app ({type(error).__name__}: {error})") from None


def replace_table(path: Path, table: str) -> str:
    """The text of a file with what stands between the two benchmark marks replaced. Raises InputError without marks."""
    start, end = MARKS
    text = path.read_text()
    if start not in text or end not in text:
        raise InputError(f"{path} has no lines {start} and {end} to put the table between")
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{table}\n{end}", text, flags=re.DOTALL)
