"""What is pinned for a Space and the tests, and what the project asks for, agree."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pinned(name: str) -> dict[str, Requirement]:
    """The lines of a requirements file by the canonical name; those that include another file are left out."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS["app"])]
OPTIONAL = [Requirement(text) for text in EXTRAS["multi"]]
PINS = pinned("requirements.txt")


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_what_the_project_asks_for_is_pinned_within_its_range(asked):
    pin = PINS[canonicalize_name(asked.name)]
    (exact,) = pin.specifier
    assert asked.specifier.contains(exact.version, prereleases=True)
    assert asked.extras <= pin.extras


@pytest.mark.parametrize("pin", PINS.values(), ids=str)
def test_what_is_pinned_is_asked_for(pin):
    asked = {canonicalize_name(r.name): r for r in (*ASKED, *OPTIONAL)}[canonicalize_name(pin.name)]
    (exact,) = pin.specifier
    assert asked.specifier.contains(exact.version, prereleases=True)
    assert pin.extras == asked.extras


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_pins_are_exact(name):
    for pin in pinned(name).values():
        (exact,) = pin.specifier
        assert exact.operator == "=="


def test_what_checks_a_commit_is_what_checks_the_rest():
    """The hook has the pinned ruff."""
    revision = re.search(r"ruff-pre-commit\n\s+rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert revision is not None
    assert pinned("requirements-dev.txt")["ruff"].specifier.contains(revision[1])
