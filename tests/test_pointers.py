"""A checkout without Git LFS has pointers in the place of files: that is said, and once."""

import json
import logging

import pytest
from terminal import refused

from pirf_app.cli import models
from pirf_app.common.checks import InputError
from pirf_app.evaluation.statistics import Statistics
from pirf_app.models.checkpoint import PointerError, read_info
from pirf_app.models.library import Library
from pirf_app.ui.serving.lanes import Lanes
from pirf_app.ui.serving.offered import problems, warm_up

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1234567\n"


@pytest.fixture
def pointers(library_copy) -> Library:
    """A library whose files are all pointers."""
    for entry in library_copy.manifest():
        (library_copy.folder / entry["file"]).write_text(POINTER)
    return library_copy


def test_one_file(pointers, capsys):
    path = pointers.folder / "darcy-16-base.safetensors"
    with pytest.raises(PointerError, match=r"^darcy-16-base.safetensors is a Git LFS pointer.*run `git lfs pull`$"):
        read_info(path)
    for arguments in (["sample", "--pde", "darcy", "--method", path], ["models", "verify", path]):
        assert "Git LFS pointer" in refused(capsys, *arguments)
    with pytest.raises(PointerError):
        pointers.load("darcy", "pirf", 16)


def test_all_files_are_one_sentence(pointers, capsys, monkeypatch, caplog):
    (only,) = problems(pointers)
    assert only.startswith("darcy-16-base.safetensors and 2 more are Git LFS pointers")
    monkeypatch.setattr(models, "Library", lambda: pointers)
    assert refused(capsys, "models", "verify") == f"Error: {only}"
    with caplog.at_level(logging.WARNING):
        warm_up(pointers, 0.0, Lanes()).join()
    assert [record.getMessage() for record in caplog.records] == [only]


def test_other_faults_are_told_besides(pointers):
    (pointers.folder / "poisson-16-base.safetensors").write_text("no checkpoint")
    first, second = problems(pointers)
    assert " and 1 more are " in first
    assert "poisson" in second


def test_statistics(tmp_path):
    (tmp_path / "a.npz").write_text(POINTER)
    with pytest.raises(InputError, match="git lfs pull"):
        Statistics.load(tmp_path / "a.npz")


def test_a_pointer_among_one_s_own_files_is_left_out_of_the_manifest(pointers, library_copy, capsys):
    path = library_copy.folder / "manifest.json"
    assert models.Library(library_copy.folder).write_manifest(skip=lambda error: None) == []
    assert json.loads(path.read_text()) == {"models": []}
