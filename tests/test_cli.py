"""The command line: its files, its tables, and one sentence with exit code 2 for anything it cannot do."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_checkpoints import rewrite
from test_evaluation import ROW

from pirf_app import cli, cli_models, statistics
from pirf_app.checkpoints import Library
from pirf_app.pdes import get_pde, pde_names

every_pde = pytest.mark.parametrize("name", pde_names())


pytestmark = pytest.mark.usefixtures("quick_data")


@pytest.fixture
def folder(tiny_folder):
    return tiny_folder


@pytest.fixture(autouse=True)
def _small_models_in_a_folder(folder, tmp_path, monkeypatch):
    for name in pde_names():
        monkeypatch.setattr(get_pde(name), "default_resolution", 16, raising=False)
    for module in (cli, cli_models):
        monkeypatch.setattr(module, "Library", lambda: Library(folder))
    monkeypatch.setattr(statistics, "REFERENCE_SAMPLES", 64)
    statistics.reference.cache_clear()
    monkeypatch.chdir(tmp_path)
    yield
    statistics.reference.cache_clear()


def run(*arguments) -> int:
    return cli.main([str(a) for a in arguments])


def refused(capsys, *arguments) -> str:
    """The one sentence on standard error that `arguments` are refused with."""
    assert run(*arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert len(lines[0]) < 400
    assert "Traceback" not in error
    return lines[0]


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


def test_evaluate_with_another_solver_and_its_table():
    options = ["--pde", "poisson", "--methods", "base", "--steps", "3", "--n", 2]
    assert run("evaluate", *options, "--solver", "heun", "--json", "heun.json") == 0
    assert run("evaluate", *options, "--json", "own.json") == 0
    with open("heun.json") as heun, open("own.json") as own:
        assert [json.load(file)["rows"][0]["nfe"] for file in (heun, own)] == [5, 3]
    with open("README.md", "w") as file:
        file.write("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    assert run("table", "heun.json", "own.json", "--json", "both.json", "--into", "README.md") == 0
    with open("README.md") as readme, open("both.json") as both:
        text = readme.read()
        assert len(json.load(both)["rows"]) == 2
    assert "old" not in text
    assert text.count("| poisson | base | 3 |") == 2
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_a_file_without_marks_is_left_alone(capsys):
    with open("README.md", "w") as file:
        file.write("no marks")
    assert run("evaluate", "--pde", "poisson", "--methods", "base", "--steps", "2", "--n", 2, "--json", "r.json") == 0
    capsys.readouterr()
    assert "README.md" in refused(capsys, "table", "r.json", "--into", "README.md")
    with open("README.md") as file:
        assert file.read() == "no marks"


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
    assert before
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

    monkeypatch.setattr(cli.np, "savez_compressed", full)
    message = refused(capsys, "data", "--pde", "poisson", "--n", 1, "--resolution", 8)
    assert "data.npz" in message
    assert "No space left" in message


TUNE = ["finetune", "--pde", "poisson", "--updates", 4, "--pool", 8, "--batch", 4, "--pool-steps", 5, "--seed", 1]


def test_finetune_and_log(folder, capsys):
    assert run(*TUNE, "--out", "my.safetensors", "--log", "events.jsonl") == 0
    assert "my.safetensors" in capsys.readouterr().out
    with open("events.jsonl") as file:
        events = [json.loads(line) for line in file]
    assert [e["update"] for e in events if e["event"] == "PirfStep"] == [1, 2, 3, 4]
    assert run("sample", "--pde", "poisson", "--method", "./my.safetensors", "--n", 1, "--steps", 5) == 0
    assert Library(folder).load_file("my.safetensors").info.method == "pirf"
    assert run(*TUNE, "--out", "my.safetensors", "--resume") == 0


def test_finetune_is_reproducible(folder):
    for name in ("a", "b"):
        assert run(*TUNE, "--out", f"{name}.safetensors") == 0
    a, b = (Library(folder).load_file(f"{name}.safetensors").denoiser.expert.state_dict() for name in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


BIG = 2**63
BAD = [
    *(["sample", "--steps", value] for value in ("0", "1", "-3", "1000000000", "nan", "ten", "2.5", "")),
    *(["sample", "--n", value] for value in ("0", "-1", "1000000000", "nan", "many")),
    *(["sample", "--seed", value] for value in (BIG, 2**64, -1, "nan", "dice")),
    ["sample", "--pde", "stokes"],
    ["sample", "--pde", ""],
    ["sample", "--method", "magic"],
    ["sample", "--method", ""],
    ["sample", "--method", "nowhere/model.safetensors"],
    ["sample", "--out", "nowhere/out.npz"],
    ["sample", "--out", "."],
    ["sample", "--speed", "9"],
    *(["evaluate", "--pde", value] for value in ("stokes", "darcy,stokes", "", ",")),
    *(["evaluate", "--steps", value] for value in ("0", "5,x", "", "5,,10", "nan", "5,1000000000")),
    *(["evaluate", "--methods", value] for value in ("magic", "", ",", "base,magic")),
    ["evaluate", "--n", "0"],
    ["evaluate", "--seed", BIG],
    ["evaluate", "--json", "nowhere/report.json"],
    ["evaluate", "--json", ".", "--n", "1", "--steps", "2", "--methods", "base"],
    *(["data", "--n", value] for value in ("0", "-2", "x", "1000000000")),
    *(["data", "--resolution", value] for value in ("0", "7", "100000", "large")),
    ["data", "--seed", BIG],
    ["data", "--pde", "stokes"],
    ["evaluate", "--solver", "euler"],
    *(["reference", "--n", value, "--out", "kept"] for value in ("0", "1", "1000000000", "many")),
    *(["reference", "--resolution", value, "--out", "kept"] for value in ("7", "100000")),
    ["reference", "--pde", "stokes", "--out", "kept"],
    ["table", "nowhere.json"],
    ["table"],
    ["models", "verify", "nowhere.safetensors"],
    ["models", "paint"],
    ["dance"],
]
PRETRAIN = {
    "pde": ["stokes"],
    "samples": [0, -5],
    "batch": [0],
    "learning-rate": ["nan", -1, "inf"],
    "resolution": [0, 17],
    "channels": [0, 7, 10**6],
    "multipliers": [0, "x", "1,-2"],
    "blocks": [0],
    "prior-box": [-1, 10**9],
    "patch": [0, 3],
    "sigma-max": [0.001, "nan"],
    "solver": ["rk45"],
    "sigma-min": [0, "nan"],
    "seed": [BIG, -1],
    "save-every": [0, "nan"],
    "out": ["nowhere/a.safetensors", ".", "a.state"],
}
FINETUNE = {
    "pde": ["stokes"],
    "method": ["magic"],
    "base": ["magic"],
    "preset": ["7y"],
    "updates": [0],
    "pool": [0],
    "batch": [0],
    "pool-steps": ["x", "1", ""],
    "last-steps": [0, 99],
    "trainable": ["encoder"],
    "norm": ["l7"],
    "learning-rate": ["nan", -1],
    "error-weight": ["nan"],
    "anchor": [-1],
    "drift": ["inf"],
    "seed": [BIG, -1],
    "out": ["nowhere/a.safetensors", ".", "a.state"],
    "log": ["nowhere/events.jsonl", "."],
}


def pairs(options: dict) -> list[tuple]:
    return [(option, value) for option, values in options.items() for value in values]


@pytest.mark.parametrize("arguments", BAD, ids=lambda a: " ".join(map(str, a)))
def test_bad_input(arguments, capsys):
    refused(capsys, *arguments)


@pytest.mark.parametrize(("option", "value"), pairs(PRETRAIN))
def test_bad_pretraining(option, value, capsys):
    tiny = {
        "samples": 8,
        "batch": 8,
        "resolution": 16,
        "channels": 8,
        "multipliers": "1,2",
        "prior-box": 0,
        option: value,
    }
    refused(capsys, "pretrain", *(part for key in tiny for part in (f"--{key}", tiny[key])))


@pytest.mark.parametrize(("option", "value"), pairs(FINETUNE))
def test_bad_tuning(option, value, capsys):
    tiny = {"pde": "poisson", "updates": 1, "pool": 4, "batch": 2, "pool-steps": 4, option: value}
    refused(capsys, "finetune", *(part for key in tiny for part in (f"--{key}", tiny[key])))


def test_more_data_than_memory_is_refused_before_it_is_made(monkeypatch, capsys):
    monkeypatch.setattr(type(get_pde("darcy")), "generate", lambda *_: pytest.fail("started"))
    refused(capsys, "data", "--pde", "darcy", "--n", 100_000, "--resolution", 512)


def damaged(path, how: str):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("not a checkpoint")
    elif how == "not finite":
        rewrite(path, lambda tensors: {k: v * float("nan") for k, v in tensors.items()})
    return path


@pytest.mark.parametrize("how", ["truncated", "text", "not finite", "wrong PDE"])
def test_bad_checkpoint_files(how, folder, tmp_path, capsys):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((folder / "darcy-16-base.safetensors").read_bytes())
    pde = "poisson" if how == "wrong PDE" else "darcy"
    message = refused(capsys, "sample", "--pde", pde, "--method", damaged(copy, how))
    assert "copy.safetensors" in message
    assert not (tmp_path / "out.npz").exists()


def test_verify_names_a_damaged_file(folder, tmp_path, capsys):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((folder / "darcy-16-base.safetensors").read_bytes()[:-9])
    assert "copy.safetensors" in refused(capsys, "models", "verify", copy)


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
