"""The command line in processes of its own: killed and resumed, and in several processes that share the work."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import free_port
from terminal import run
from waiting import eventually

from pirf_app.methods.registry import METHODS
from pirf_app.training.run_state import load_run

TUNE = ["finetune", "--pde", "poisson", "--pool", 12, "--pool-steps", 4, "--validation", 4, "--batch", 6]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", 1, "--num_processes", 2]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture
def process(request, tmp_path):
    """Starts `python ...` in an empty folder, on one thread."""
    started = []

    def start(*arguments) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(request.config.rootpath), "OMP_NUM_THREADS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **streams))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def finished(running: subprocess.Popen) -> str:
    """What it printed; it must end well."""
    out, error = running.communicate(timeout=300)
    assert running.returncode == 0, error
    return out


def app(*arguments) -> list:
    return ["-m", "pirf_app", *arguments]


def alone(folder, *arguments) -> None:
    """The same in this process, which is quicker."""
    with contextlib.chdir(folder):
        assert run(*arguments) == 0


def together(*arguments) -> list:
    return [*LAUNCH, "--main_process_port", free_port(), "-m", "pirf_app", *arguments]


def events(path) -> list[dict]:
    """The lines of a log, what a clock says left out."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_a_killed_run_resumes_to_the_same_bits(process, folder, tmp_path):
    """And its log goes on without a repeat or a gap."""
    tune = [*TUNE, "--from", folder / "poisson-16-base.safetensors", "--updates", 40, "--validate-every", 5]
    tune += ["--save-every", 0.2, "--chunk", 4]
    finished(process(*app(*tune, "--out", "whole.safetensors", "--log", "whole.jsonl")))
    again = [*tune, "--out", "killed.safetensors", "--log", "killed.jsonl"]
    running, state = process(*app(*again)), tmp_path / "killed.state"
    begun = lambda: state.exists() and (tmp_path / "killed.jsonl").read_text().count("TuningStep") > 8  # noqa: E731
    eventually(lambda: begun() or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed.safetensors").exists()
    assert load_run(state)[2]["update"] < 40
    finished(process(*app(*again, "--resume")))
    (left, right), (first, second) = (
        [load_run(tmp_path / f"{name}.state")[i] for name in ("whole", "killed")] for i in (0, 1)
    )
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert all(torch.equal(first[i][key], second[i][key]) for i in first for key in first[i])
    assert events(tmp_path / "killed.jsonl") == events(tmp_path / "whole.jsonl")


def near(left: dict, right: dict, scale: float) -> None:
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(
            left[key], right[key], rtol=1e-3, atol=scale, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_tune_as_one(process, folder, tmp_path, method):
    """The optimiser's moments say that their gradients were the same."""
    updates = 2
    tune = [*TUNE, "--from", folder / "poisson-16-base.safetensors", "--updates", updates, "--learning-rate", 1e-4]
    tune += ["--method", method]
    alone(tmp_path, *tune, "--out", "one.safetensors", "--log", "one.jsonl")
    out = finished(process(*together(*tune, "--out", "two.safetensors", "--log", "two.jsonl")))
    assert out.count("wrote two.safetensors") == 1
    one, two = (load_run(tmp_path / f"{name}.state") for name in ("one", "two"))
    near(one[0], two[0], 3e-5)
    assert any(one[0][f"parameter.{i}"].numel() > 100 for i in range(4))
    for i, moments in one[1].items():
        near(moments, two[1][i], 1e-5)
    ends = [[e for e in events(tmp_path / f"{name}.jsonl") if e["event"] == "TuningStep"] for name in ("one", "two")]
    assert [e["update"] for e in ends[0]] == [e["update"] for e in ends[1]] == list(range(updates + 1))
    assert [e["loss"] for e in ends[0]] == pytest.approx([e["loss"] for e in ends[1]], rel=1e-3)


def test_two_processes_pretrain_as_one(process, tmp_path):
    train = ["pretrain", "--pde", "poisson", "--resolution", 16, "--channels", 8, "--multipliers", "1,2", "--batch", 5]
    train += ["--samples", 15, "--prior-box", 2, "--learning-rate", 1e-4]
    alone(tmp_path, *train, "--out", "one.safetensors")
    out = finished(process(*together(*train, "--out", "two.safetensors")))
    assert out.count("wrote two.safetensors") == 1
    one, two = (load_run(tmp_path / f"{name}.state") for name in ("one", "two"))
    near(one[0], two[0], 3e-5)


def test_two_processes_report_as_one(process, folder, tmp_path):
    methods = ",".join(str(folder / f"poisson-16-{name}.safetensors") for name in ("base", "base"))
    measure = ["evaluate", "--pde", "poisson", "--methods", methods, "--steps", "2,3", "--n", 5]
    alone(tmp_path, *measure, "--json", "one.json")
    table = finished(process(*together(*measure, "--json", "two.json")))
    assert table.count("| poisson | base | 3 |") == 2
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["floors"] == two["floors"]
    assert len(one["rows"]) == len(two["rows"]) == 4
    for left, right in zip(one["rows"], two["rows"], strict=True):
        assert left.keys() == right.keys()
        for key in left.keys() - {"seconds", "by_seed"}:
            assert left[key] == (
                pytest.approx(right[key], rel=1e-3) if isinstance(left[key], float | list) else right[key]
            )
        for mine, theirs in zip(left["by_seed"], right["by_seed"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3)
