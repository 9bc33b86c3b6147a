"""The rooms of the house: imports point down only, files are read in one sitting, the page's tools stay on the page."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pirf_app"
# From the bottom up: a room may import those before it in the list, and itself. Rooms of one line import each other
# in no direction.
FLOORS = (
    ("common",),
    ("pdes",),
    ("diffusion",),
    ("models",),
    ("evaluation",),
    ("training",),
    ("methods",),
    ("inverse",),
    ("hub",),
    ("tier", "interface"),
    ("cli", "ui"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 300


def room(module: str) -> str | None:
    """The room of a dotted name in this package: None for the package itself and for others' modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "pirf_app" and len(parts) > 1 else None


def imported(path: Path) -> list[str]:
    """Dotted names of all that a file imports, wherever in it."""
    package = ["pirf_app", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` and `from .. import x` name modules.
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def own_room(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if parts[0] not in ("__init__", "__main__") else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = own_room(path)
    if here is None:
        return
    assert here in LEVEL, f"{here} is no room: give it a floor here and in docs/architecture.md"
    for name in imported(path):
        there = room(name)
        if there in LEVEL and there != here:
            assert LEVEL[there] < LEVEL[here], f"{path.relative_to(PACKAGE)} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_page_knows_what_draws_it(path):
    if own_room(path) != "ui":
        assert not {name.split(".")[0] for name in imported(path)} & {"gradio", "plotly"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting_and_says_what_it_does(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    if path.name != "__main__.py" and text.strip():
        assert ast.get_docstring(ast.parse(text)), "the first line says what the file does"


def test_every_room_is_known_and_on_one_floor():
    rooms = {own_room(path) for path in FILES} - {None}
    assert rooms <= set(LEVEL)
    assert len(LEVEL) == sum(map(len, FLOORS))


@pytest.mark.parametrize(
    ("module", "finds"),
    [("pirf_app.pdes.base", "pdes"), ("pirf_app", None), ("torch.nn", None), ("pirf_app.ui.page", "ui")],
)
def test_rooms_of_names(module, finds):
    assert room(module) == finds
