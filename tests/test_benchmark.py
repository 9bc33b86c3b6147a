"""The benchmark command: what it measures is there and is of the right size."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from pirf_app.cli import benchmark as cli_benchmark
from pirf_app.cli.main import main
from pirf_app.diffusion.network import UNet
from pirf_app.models.library import Library
from pirf_app.tier import benchmark
from pirf_app.tier.benchmark import fine_tuning, peak_memory, sampling

pytestmark = pytest.mark.usefixtures("small_models", "quick_data")


@pytest.fixture(autouse=True)
def _library(folder, monkeypatch):
    monkeypatch.setattr(cli_benchmark, "Library", lambda: Library(folder))


def test_report_has_every_case(tmp_path, capsys):
    options = ["--pde", "darcy,burgers", "--steps", "2,3", "--n", "2", "--tune", "poisson", "--last-steps", "1,2"]
    options += ["--trainable", "last,all", "--batch", "2", "--device", "cpu", "--json", "bench.json"]
    assert main(["benchmark", *options]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    drawn = {(row["pde"], row["steps"], row["nfe"]) for row in report["sampling"]}
    assert drawn == {(pde, steps, steps) for pde in ("darcy", "burgers") for steps in (2, 3)}
    assert {(row["last_steps"], row["trainable"]) for row in report["finetuning"]} == {
        (k, part) for k in (1, 2) for part in ("last", "all")
    }
    assert all(row["seconds"] > 0 for row in report["sampling"])
    assert all(row["updates_per_second"] > 0 for row in report["finetuning"])
    assert report["environment"]["device"] == "cpu"
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_what_is_timed_is_the_work_and_nothing_before_it(folder, monkeypatch):
    """By a clock that ticks once for every evaluation of a network."""
    checkpoint, ticks = Library(folder).load("darcy", "base", 16), [0.0]

    def tick(*_):
        ticks[0] += 1

    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: ticks[0]))
    with torch.nn.modules.module.register_module_forward_hook(lambda m, *_: tick() if isinstance(m, UNet) else None):
        for steps in (3, 12):
            assert sampling(checkpoint, steps, 2, "cpu")["seconds"] == steps
        speeds = [fine_tuning(checkpoint, k, "last", 2, "cpu")["updates_per_second"] for k in (1, 3)]
    assert speeds[0] == pytest.approx(3 * speeds[1], rel=0.5)  # a run validates once besides


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not say")
def test_peak_memory_sees_what_is_taken_and_given_back():
    with peak_memory("cpu") as peak:
        torch.ones(25_000_000).sum()  # 100 MB
        taken = peak()
    assert 80e6 < taken < 200e6
    with peak_memory("cpu") as peak:
        assert peak() < 50e6


@pytest.mark.parametrize(
    "options",
    [
        ["--device", "tpu"], ["--steps", "1"], ["--steps", "a"], ["--n", "0"], ["--batch", "0"], ["--last-steps", "0"],
        ["--trainable", "middle"], ["--pde", "stokes"], ["--tune", "stokes"], ["--json", "nowhere/bench.json"],
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options, capsys):
    assert main(["benchmark", "--pde", "darcy", "--tune", "none", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
