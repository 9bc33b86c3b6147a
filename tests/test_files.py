"""What the app writes: whole or not at all, for those to read whom the umask lets; and what a full disk leaves."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import refused
from tiny import info_of, tiny_denoiser

from pirf_app.common.checks import InputError
from pirf_app.common.files import replacing, write_arrays, write_json, write_text
from pirf_app.evaluation.comparison import compare, last
from pirf_app.evaluation.exports import write_csv, write_npz
from pirf_app.evaluation.statistics import Statistics
from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.pdes import get_pde
from pirf_app.training.run_state import save_run

ROOM = 2000  # bytes


@contextmanager
def little_room():
    """No file may be larger than `ROOM`: as on a disk that fills up while it is written, but for the words."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_state(path: Path) -> None:
    save_run(path, {"a": torch.zeros(ROOM)}, torch.optim.Adam([torch.zeros(1)]), {})


def save_model(path: Path) -> None:
    model = tiny_denoiser("poisson")
    save_checkpoint(path, model, info_of(model, "poisson"))


def save_statistics(path: Path) -> None:
    Statistics.of(get_pde("poisson"), get_pde("poisson").generate(4, 16, 0)).save(path)


WRITERS = {
    "a.safetensors": save_model,
    "run.state": save_state,
    "poisson-16.npz": save_statistics,
    "out.npz": lambda path: write_arrays(path, fields=np.random.default_rng(0).random(ROOM)),
    "report.json": lambda path: write_json(path, {"rows": list(range(ROOM))}),
    "card.md": lambda path: write_text(path, "x" * 2 * ROOM),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


@every_writer
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_says_who_may_read_a_file(name, umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        for _ in range(2):  # the second time in place of the first
            WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == mode
    assert os.listdir(tmp_path) == [name]


@every_writer
def test_a_file_that_does_not_fit_is_named_and_leaves_nothing(name, tmp_path):
    path = tmp_path / name
    for before in ([], [name]):
        with little_room(), pytest.raises(InputError, match=rf"^\S+{name} cannot be written \(File too large\)$"):
            WRITERS[name](path)
        assert os.listdir(tmp_path) == before
        path.write_text("what was there")
    assert path.read_text() == "what was there"


def test_an_export_of_the_page_is_whole_or_not_there(tiny_library, quick_data, tmp_path, monkeypatch):
    result = last(compare(tiny_library, "poisson", ["base"], 2, 8, 0))
    monkeypatch.setattr("pathlib.Path.replace", no_room)
    for write, name in ((write_npz, "a.npz"), (write_csv, "a.csv")):
        with pytest.raises(InputError, match=name):
            write(result, tmp_path / name)
    assert os.listdir(tmp_path) == []


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_commands_leave_nothing_on_a_full_disk(small_models, quick_data, tmp_path, capsys):
    for arguments in (
        ["data", "--pde", "poisson", "--n", 2, "--out", "x.npz"],
        ["sample", "--pde", "poisson", "--n", 2, "--steps", 2, "--out", "x.npz"],
    ):
        with little_room():
            assert "x.npz cannot be written (File too large)" in refused(capsys, *arguments)
        assert os.listdir(tmp_path) == []


def test_a_link_stays_one_and_a_long_name_can_be_written(tmp_path):
    (tmp_path / "there").mkdir()
    link, target, long = tmp_path / "link.json", tmp_path / "there" / "target.json", tmp_path / ("n" * 255)
    link.symlink_to(target)
    for path in (link, long):
        write_json(path, 3)
    assert link.is_symlink()
    assert target.read_text() == long.read_text() == "3\n"


def test_what_is_no_file_is_written_to(tmp_path):
    """Never replaced: as root, /dev/null would be gone."""
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    with replacing(name) as place:
        assert str(place) == name
    write_text(name, "told")
    assert os.read(ours, 100) == b"told"
    for end in (ours, theirs):
        os.close(end)
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path, "a folder")


HALF = """
import runpy, signal, sys
import numpy
def killed(file, **arrays):
    file.write(b"half")
    file.flush()
    signal.raise_signal(signal.SIGTERM)
numpy.savez_compressed = killed
sys.argv[0] = "pirf_app"
runpy.run_module("pirf_app", run_name="__main__", alter_sys=True)
"""


def test_a_command_that_is_ended_leaves_no_half_of_a_file(request, tmp_path):
    command = [sys.executable, "-c", HALF, "data", "--pde", "poisson", "--n", "1", "--resolution", "16"]
    environment = os.environ | {"PYTHONPATH": str(request.config.rootpath), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert os.listdir(tmp_path) == []
