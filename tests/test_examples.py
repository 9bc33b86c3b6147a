"""What the documentation shows is run as it stands: the examples, the README's snippets."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
# A new benchmark passes the tests of every benchmark, without a line of theirs being changed.
GENERIC = ("test_pdes", "test_residuals", "test_conservation", "test_prior", "test_own_fields")
RUN_GENERIC = """
import runpy, sys
runpy.run_path(sys.argv[1])
import pytest
sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "-k", "advection", *sys.argv[2:]]))
"""


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_new_pde_in_one_file_passes_the_tests_of_all():
    files = [f"tests/{name}.py" for name in GENERIC]
    told = run(ROOT, sys.executable, "-c", RUN_GENERIC, "examples/new_pde.py", *files)
    passed = int(re.search(r"(\d+) passed", told)[1])
    assert passed > 40
    assert "failed" not in told


def test_a_new_pde_says_what_its_file_needs(tmp_path):
    told = run(tmp_path, sys.executable, str(ROOT / "examples" / "new_pde.py"))
    assert "| u |" in told
    assert "residual RMS of solver data" in told


def test_tuning_by_a_reward_of_ones_own(tmp_path):
    told = run(tmp_path, sys.executable, str(ROOT / "examples" / "tune.py"), "2")
    assert "before: reward" in told
    assert "after: reward" in told
    assert (tmp_path / "mine.safetensors").exists()


def snippets(language: str, mark: str) -> list[str]:
    return [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if mark in text]


def test_the_readmes_commands(tmp_path):
    """In the order in which they stand, in one folder: later ones read what earlier ones wrote."""
    (text,) = snippets("sh", "pirf_app sample")
    commands = [shlex.split(line) for line in text.strip().splitlines()]
    assert len(commands) >= 6
    for command in commands:
        run(tmp_path, sys.executable, *command[1:])
    assert {path.name for path in tmp_path.iterdir()} >= {"out.npz", "report.json", "my.safetensors", "data.npz"}


def test_the_readmes_python(tmp_path):
    (text,) = snippets("python", "import pirf_app as pirf")
    run(tmp_path, sys.executable, "-c", text)
    assert (tmp_path / "smooth.safetensors").exists()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"])
def test_links_in_the_documentation_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target
