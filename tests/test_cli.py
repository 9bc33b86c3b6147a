"""The command line: its files, its tables, and one sentence with exit code 2 for anything it cannot do."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from terminal import refused, run
from test_evaluation import ROW

from pirf_app.cli import main
from pirf_app.evaluation import statistics
from pirf_app.methods.registry import METHODS
from pirf_app.models.library import Library
from pirf_app.pdes import get_pde, pde_names

every_pde = pytest.mark.parametrize("name", pde_names())
pytestmark = pytest.mark.usefixtures("quick_data", "small_models")


@every_pde
@pytest.mark.parametrize("method", ["base", "pirf"])
def test_sample(name, method, capsys):
    assert run("sample", "--pde", name, "--method", method, "--steps", 4, "--n", 3, "--seed", 5, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["pde"], row["method"], row["steps"], row["nfe"], row["n"]) == (name, method, 4, 4, 3)
    channels = len(get_pde(name).channels)
    with np.load("out.npz", allow_pickle=False) as file:
        assert set(file) == {"fields", "residual", "solution", "noise_seed", "meta"}
        assert file["fields"].shape == file["solution"].shape == (3, channels, 16, 16)
        assert file["residual"].shape == (3, 16, 16)
        assert file["fields"].dtype == file["residual"].dtype == file["solution"].dtype == np.float32
        assert file["noise_seed"] == 5
        meta, fields = json.loads(str(file["meta"])), torch.from_numpy(file["fields"])
        torch.testing.assert_close(torch.from_numpy(file["residual"]), get_pde(name).residual(fields))
    assert meta["pde"] == name
    assert meta["seed"] == 5


def test_sample_is_the_same_alone_and_in_a_batch():
    fields = {}
    for n in (1, 8):
        assert run("sample", "--pde", "darcy", "--n", n, "--steps", 3, "--seed", 2, "--out", f"{n}.npz") == 0
        fields[n] = np.load(f"{n}.npz")["fields"]
    np.testing.assert_allclose(fields[8][:1], fields[1], rtol=1e-3, atol=1e-3 * fields[1].std())


def test_sample_from_a_checkpoint_file(folder, capsys):
    assert (
        run("sample", "--pde", "darcy", "--method", folder / "darcy-16-pirf.safetensors", "--steps", 2, "--n", 1) == 0
    )
    assert "pirf" in capsys.readouterr().out


def test_evaluate(capsys):
    arguments = ["--methods", "base,pirf", "--steps", "2,4", "--n", 3, "--seed", 1, "--json", "report.json"]
    assert run("evaluate", "--pde", "all", *arguments) == 0
    with open("report.json") as file:
        report = json.load(file, parse_constant=pytest.fail)
    assert set(report) == {"rows", "floors", "environment"}
    assert len(report["rows"]) == len(pde_names()) * 4
    assert all(set(row) >= ROW for row in report["rows"])
    assert [(r["method"], r["steps"]) for r in report["rows"][:4]] == [
        ("base", 2),
        ("base", 4),
        ("pirf", 2),
        ("pirf", 4),
    ]
    assert set(report["floors"]) == set(pde_names())
    assert all(floor["residual_rms"] < 1e-2 for floor in report["floors"].values())
    table = capsys.readouterr().out
    assert table.count("pirf") == 2 * len(pde_names())


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '{"rows": 3, "floors": {}, "environment": {}}'])
def test_a_file_that_is_no_report(content, capsys):
    with open("r.json", "w") as file:
        file.write(content)
    assert "r.json" in refused(capsys, "table", "r.json")


def test_reference_statistics_are_written():
    assert run("reference", "--pde", "poisson", "--n", 8, "--resolution", 16, "--out", "kept") == 0
    found = statistics.Statistics.load("kept/poisson-16.npz")
    assert found.n == 8
    assert found.std == pytest.approx(statistics.reference("poisson", 16).std, rel=0.5)


def test_evaluate_takes_files_and_lists(folder):
    method = f"base,{folder / 'darcy-16-pirf.safetensors'}"
    assert run("evaluate", "--pde", "darcy", "--methods", method, "--steps", "2", "--n", 2, "--json", "r.json") == 0
    with open("r.json") as file:
        assert [row["method"] for row in json.load(file)["rows"]] == ["base", "pirf"]


@every_pde
def test_data(name):
    assert run("data", "--pde", name, "--n", 3, "--resolution", 16, "--seed", 4) == 0
    with np.load("data.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["fields"], get_pde(name).generate(3, 16, 4).numpy())
        assert file["residual"].shape == (3, 16, 16)
        assert json.loads(str(file["meta"]))["resolution"] == 16


def test_models_list_and_verify(capsys, folder):
    assert run("models", "list") == 0
    assert "darcy-16-pirf" in capsys.readouterr().out
    assert run("models", "list", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * len(pde_names())
    assert run("models", "verify") == 0
    assert capsys.readouterr().out.count("good") == 2 * len(pde_names())
    assert run("models", "verify", folder / "darcy-16-base.safetensors") == 0


def test_pretrain_and_resume(capsys):
    tiny = [
        "--pde",
        "poisson",
        "--batch",
        8,
        "--resolution",
        16,
        "--channels",
        8,
        "--multipliers",
        "1,2",
        "--prior-box",
        0,
    ]
    assert run("pretrain", *tiny, "--samples", 24, "--out", "a.safetensors") == 0
    assert run("models", "verify", "a.safetensors") == 0
    before = Library().load_file("a.safetensors").sha256
    assert run("pretrain", *tiny, "--samples", 24, "--out", "a.safetensors", "--resume") == 0
    assert Library().load_file("a.safetensors").info.recipe["updates"] == 3
    assert Library().load_file("a.safetensors").sha256 == before
    assert run("sample", "--pde", "poisson", "--method", "./a.safetensors", "--n", 1, "--steps", 2) == 0


def test_a_resumed_run_may_be_lengthened_and_keeps_its_other_options():
    tiny = ["--pde", "poisson", "--resolution", 16, "--channels", 8, "--multipliers", "1,2", "--prior-box", 4]
    assert run("pretrain", *tiny, "--batch", 8, "--samples", 16, "--out", "a.safetensors") == 0
    for more, samples, updates in (([], 16, 2), (["--samples", 40, "--batch", 4, "--seed", 9], 40, 5)):
        assert run("pretrain", "--pde", "poisson", "--out", "a.safetensors", "--resume", *more) == 0
        recipe = Library().load_file("a.safetensors").info.recipe
        found = [recipe["config"][key] for key in ("samples", "batch", "seed")]
        assert (found, recipe["updates"]) == ([samples, 8, 0], updates)


def test_a_state_that_cannot_be_resumed(capsys):
    with open("a.state", "w") as file:
        file.write("not a state")
    assert "a.state" in refused(capsys, "pretrain", "--out", "a.safetensors", "--resume")
    with open("b.safetensors", "w"), open("b.state", "wb"):
        assert "b.state" in refused(capsys, "pretrain", "--out", "b.safetensors", "--resume")


def test_errors_of_the_system_are_one_sentence(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "data.npz")

    monkeypatch.setattr(main.np, "savez_compressed", full)
    message = refused(capsys, "data", "--pde", "poisson", "--n", 1, "--resolution", 8)
    assert "data.npz" in message
    assert "No space left" in message


TUNE = ["finetune", "--pde", "poisson", "--updates", 4, "--pool", 8, "--batch", 4, "--pool-steps", 5, "--seed", 1]


@pytest.mark.parametrize("method", METHODS)
def test_finetune_and_log(folder, capsys, method):
    tune = [*TUNE, "--method", method]
    assert run(*tune, "--out", "my.safetensors", "--log", "events.jsonl") == 0
    assert "my.safetensors" in capsys.readouterr().out
    with open("events.jsonl") as file:
        events = [json.loads(line) for line in file]
    assert [e["update"] for e in events if e["event"] == "TuningStep"] == [0, 1, 2, 3, 4]
    assert run("sample", "--pde", "poisson", "--method", "./my.safetensors", "--n", 1, "--steps", 5) == 0
    assert Library(folder).load_file("my.safetensors").info.method == method
    assert run(*tune, "--out", "my.safetensors", "--resume") == 0


def test_a_preset_is_refused_or_kept_within_its_time(folder, capsys):
    few = ["--updates", 3, "--pool", 6]
    assert run("finetune", "--pde", "poisson", "--preset", "30s", *few, "--out", "my.safetensors") == 0
    error = capsys.readouterr().err
    assert " s at this machine's speed" in error
    command = next(line for line in error.splitlines() if line.startswith("python -m pirf_app finetune"))
    recipe = Library(folder).load_file("my.safetensors").info.recipe
    assert (recipe["updates"], recipe["config"]["pool"]) == (3, 6)
    again = shlex.split(command)[3:]
    assert run(*again[:-1], "again.safetensors") == 0
    first, second = (Library(folder).load_file(f"{name}.safetensors").denoiser.expert for name in ("my", "again"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_finetune_goes_on_from_a_file(folder):
    assert run(*TUNE, "--out", "my.safetensors", "--state", "best") == 0
    assert run(*TUNE, "--from", "./my.safetensors", "--out", "more.safetensors") == 0
    mine, more = (Library(folder).load_file(f"{name}.safetensors") for name in ("my", "more"))
    assert more.info.recipe["began_with"] == mine.sha256
    assert more.info.parent == mine.info.parent


def test_a_diverged_run_is_logged_and_writes_what_was_finite(folder, capsys):
    wild = ["--learning-rate", 1e20, "--warmup", 1, "--clip", 1e30]
    assert run(*TUNE, *wild, "--out", "my.safetensors", "--log", "events.jsonl") in (0, 2)
    with open("events.jsonl") as file:
        events = [json.loads(line, parse_constant=pytest.fail) for line in file]
    assert events[-1]["event"] == "Diverged"
    assert "lower learning rate" in events[-1]["message"]


TRACKIO = """
calls = []
init = lambda **options: calls.append(options)
log = lambda figures, step: calls.append((step, figures))
finish = lambda: calls.append("finished")
"""


def test_tracking_passes_the_figures_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "trackio.py").write_text(TRACKIO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    assert run(*TUNE, "--out", "my.safetensors", "--track") == 0
    first, *steps, end = sys.modules.pop("trackio").calls
    assert (first["name"], first["config"]["updates"], end) == ("my", 4, "finished")
    assert [step for step, _ in steps] == [0, 1, 2, 3, 4]
    assert "validation_residual" in steps[0][1]
    assert all(isinstance(value, float) for _, figures in steps for value in figures.values())
    monkeypatch.setitem(sys.modules, "trackio", None)
    capsys.readouterr()
    assert "pip install trackio" in refused(capsys, *TUNE, "--out", "my.safetensors", "--track")


def test_finetune_is_reproducible(folder):
    for name in ("a", "b"):
        assert run(*TUNE, "--out", f"{name}.safetensors") == 0
    a, b = (Library(folder).load_file(f"{name}.safetensors").denoiser.expert.state_dict() for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def in_a_process(root, *arguments):
    command = [sys.executable, "-m", "pirf_app", *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_process_writes_data(request, tmp_path):
    done = in_a_process(request.config.rootpath, "data", "--pde", "poisson", "--n", "2", "--out", "d.npz")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d.npz").exists()


def test_process_refuses_with_one_sentence(request):
    done = in_a_process(request.config.rootpath, "sample", "--pde", "stokes")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "darcy" in done.stderr
