"""Threads that wait must not spin for long beside other work: what they are told has to be there before torch is."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pirf_app.common import threads

# Prints what the OpenMP runtime would find at the moment when torch is first asked for, and ends there.
FINDER = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
"""
ENTRIES = {
    "page": "import runpy; runpy.run_path('app.py', run_name='__main__')",
    "command line": "import runpy; runpy.run_module('pirf_app', run_name='__main__')",
    "library": "import pirf_app.models.library",
}


def found(entry: str, root, **environment: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", FINDER + ENTRIES[entry]]
    done = subprocess.run(command, cwd=root, env=clean | environment, capture_output=True, text=True, timeout=120)
    return done.stdout.split()


@pytest.mark.parametrize("entry", ENTRIES)
def test_threads_are_told_before_torch_is_imported(entry, request):
    spins, policy = found(entry, request.config.rootpath)
    assert int(spins) <= 20_000
    assert policy == "None"


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "passive"}])
def test_what_the_environment_says_is_kept(own, request):
    expected = [own.get("GOMP_SPINCOUNT", "None"), own.get("OMP_WAIT_POLICY", "None")]
    assert found("command line", request.config.rootpath, **own) == expected


@pytest.mark.parametrize(
    ("running", "expected"), [([1], 4), ([4], 4), ([5], 1), ([9], 1), ([1, 9, 1, 1, 9], 4), ([7] * 5, 1)]
)
def test_threads_are_as_many_as_there_are_cores_to_have(running, expected, monkeypatch, tmp_path):
    """By what runs now, this process counted out; a single look that found much is no reason."""
    looks = iter(running * threads.LOOKS)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "PAUSE", 0)
    monkeypatch.setattr(threads, "LOADS", SimpleNamespace(read_text=lambda: f"0.10 0.20 0.30 {next(looks)}/200 4321"))
    assert threads.suitable_threads() == expected
    monkeypatch.setattr(threads, "LOADS", tmp_path / "none")
    assert threads.suitable_threads() == 4
