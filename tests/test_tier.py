"""The resolution tier, rehearsed at 16x16 on the CPU: its plan, its stages, and what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_config
from waiting import eventually

from pirf_app.cli import models as cli_models
from pirf_app.cli.main import main
from pirf_app.common.checks import InputError
from pirf_app.diffusion.network import NetworkConfig
from pirf_app.evaluation import statistics
from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.models.library import Library
from pirf_app.pdes import get_pde, pde_names
from pirf_app.tier import plan as tier_plan
from pirf_app.tier import run as tier
from pirf_app.tier.data import PART, DataFile, in_processes, write_statistics
from pirf_app.tier.plan import LIMIT, SHARES, Options, Plan, Rates, flops, make_plan, parameters, table, widest_network
from pirf_app.tier.run import STAGES, Tier, measure
from pirf_app.training.run_state import load_run

OPTIONS = Options("poisson", 16, 5.0, "cpu", 1)
SMALL = Plan(
    tiny_config("poisson"), prior_box=2, parts=4, reference_parts=2, batch=16, samples=160, pool=8, updates=6,
    tuning_batch=4, validation=4, evaluated=4,
)  # fmt: skip
FAST = Rates(part=0.5, solve=0.01, flops=40e12)


@pytest.fixture(scope="module", autouse=True)
def _own_reference(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "FOLDER", tmp_path_factory.mktemp("reference"))
        statistics.reference.cache_clear()
        yield
    statistics.reference.cache_clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with an uninterrupted run, and what it made in `run-out`."""
    folder = tmp_path_factory.mktemp("whole")
    steps = list(small_tier(folder).run())
    assert [s for s in STAGES if s in {step.stage for step in steps}] == list(STAGES)
    assert all(a.seconds <= b.seconds for a, b in zip(steps, steps[1:], strict=False))
    return folder


def small_tier(folder: Path, resume: bool = False) -> Tier:
    made = Tier(OPTIONS, folder / "run-out", folder / "run", resume)
    made.plan = made.plan or SMALL
    return made


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return Library(path.parent).load_file(path).denoiser.state_dict()


def test_stages_make_checkpoints_that_load(whole):
    out = whole / "run-out"
    library = Library(out)
    assert [e["name"] for e in library.manifest()] == ["poisson-16-base", "poisson-16-pirf"]
    base, tuned = (library.load("poisson", method, 16) for method in ("base", "pirf"))
    assert (tuned.info.parent, tuned.info.method) == (base.sha256, "pirf")
    assert base.info.recipe["updates"] == 10
    assert tier.noise_levels("poisson").items() <= base.info.recipe["config"].items()
    assert tuned.info.recipe["updates"] == 6
    report = json.loads((whole / "run" / "report.json").read_text())
    assert [(row["method"], row["steps"]) for row in report["rows"]] == [
        ("base", 10), ("base", 20), ("pirf", 10), ("pirf", 20),
    ]  # fmt: skip
    assert all(e["figures"]["residual_rms"] > 0 for e in library.manifest())
    assert all((out / f"{e['name']}.md").exists() for e in library.manifest())


def test_noise_levels_are_those_of_the_bundled_baseline(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(get_pde("poisson"), "default_resolution", 16, raising=False)
    monkeypatch.setattr(tier, "Library", lambda: Library(tiny_folder))
    assert tier.noise_levels("poisson") == {"sigma_min": 0.03, "sigma_max": 80.0, "rho": 7.0}
    monkeypatch.setattr(tier, "Library", lambda: Library(tmp_path))
    assert tier.noise_levels("poisson") == {}


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_stage_goes_on_to_the_same_weights(stage, whole, tmp_path):
    """Interrupted within each stage in turn; what was done is not done again."""
    for step in small_tier(tmp_path).run():
        if step.stage == stage:
            break
    again = small_tier(tmp_path, resume=True)
    assert again.done == list(STAGES[: STAGES.index(stage)])
    assert {step.stage for step in again.run()} == set(STAGES[STAGES.index(stage) :])
    for method in ("base", "pirf"):
        name = f"poisson-16-{method}.safetensors"
        found, expected = tensors(tmp_path / "run-out" / name), tensors(whole / "run-out" / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_another_run_is_not_continued(tmp_path):
    next(small_tier(tmp_path).run())
    with pytest.raises(InputError, match="poisson at 16x16"):
        Tier(replace(OPTIONS, pde="helmholtz"), tmp_path, tmp_path / "run", resume=True)
    (tmp_path / "run" / "tier.json").write_text("{")
    with pytest.raises(InputError, match="--resume"):
        Tier(OPTIONS, tmp_path, tmp_path / "run", resume=True)


def test_minutes_that_are_over_end_a_stage_early(tmp_path):
    run = small_tier(tmp_path)
    run.plan = replace(SMALL, samples=10**6, updates=10**4)
    run.before = 60 * OPTIONS.minutes  # as if all of them had been spent before a kill
    list(run.run())
    base, tuned = (Library(run.out).load("poisson", method, 16) for method in ("base", "pirf"))
    assert (base.info.recipe["updates"], tuned.info.recipe["updates"]) == (1, 1)


def test_manifest_keeps_what_the_report_does_not_tell_of(whole, tmp_path, monkeypatch):
    """The figures and cards that a tier wrote; those of a file that is another now go."""
    out = shutil.copytree(whole / "run-out", tmp_path / "out")
    content = lambda: {path.name: path.read_bytes() for path in out.iterdir()}  # noqa: E731
    before = content()
    (tmp_path / "report.json").write_text('{"rows": [], "floors": {}, "environment": {}}')
    monkeypatch.setattr(cli_models, "Library", lambda: Library(out))
    command = ["models", "manifest", "--report", str(tmp_path / "report.json")]
    assert main(command) == 0
    assert content() == before
    checkpoint = Library(out).load("poisson", "base", 16)
    info = replace(checkpoint.info, recipe={})
    sha256 = save_checkpoint(out / "poisson-16-base.safetensors", checkpoint.denoiser, info)
    assert main(command) == 0
    entry = Library(out).find("poisson", "base", 16)
    assert (entry["sha256"], entry["figures"]) == (sha256, {})
    assert sha256 in (out / "poisson-16-base.md").read_text()


# The command, which stands still after its first save in pre-training, until it is killed.
DRIVER = """
import sys, time
from pathlib import Path
from pirf_app.evaluation import statistics
statistics.FOLDER = Path(sys.argv[1])
from pirf_app.cli.main import main
from pirf_app.training.pretraining import Pretraining
save = Pretraining.save
Pretraining.save = lambda self, path: (save(self, path), time.sleep(600))
sys.exit(main(sys.argv[2:]))
"""


def test_rehearsal_killed_and_resumed(tmp_path, capsys):
    """The command itself, killed for good in pre-training, and resumed."""
    folder, out = tmp_path / "run", tmp_path / "out"
    options = ["tier", "--pde", "poisson", "--resolution", "16", "--minutes", "0.1", "--device", "cpu"]
    options += ["--workers", "1", "--megabytes", "1.3", "--out", str(out), "--folder", str(folder)]
    arguments = [sys.executable, "-c", DRIVER, str(statistics.FOLDER), *options]
    process = subprocess.Popen(arguments, cwd=Path(__file__).parent.parent, env=os.environ | {"OMP_NUM_THREADS": "1"})
    state = folder / "pretrain.state"
    eventually(lambda: state.exists() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    updates = load_run(state)[2]["update"]
    data = (folder / "data.npy").stat().st_mtime_ns
    assert json.loads((folder / "tier.json").read_text())["done"] == ["data"]
    assert not list(out.glob("*pirf*"))
    assert main([*options, "--resume"]) == 0
    assert "pirf" in capsys.readouterr().out
    assert (folder / "data.npy").stat().st_mtime_ns == data
    base, tuned = (Library(out).load("poisson", method, 16) for method in ("base", "pirf"))
    assert base.info.recipe["updates"] >= updates > 0
    assert tuned.info.parent == base.sha256
    assert all(entry["size"] < 1.4e6 for entry in Library(out).manifest())


def test_data_file_goes_on_and_is_used_again(tmp_path):
    pde, path = get_pde("poisson"), tmp_path / "data.npy"
    whole = DataFile(tmp_path / "whole.npy", pde, 16, 0, 3)
    assert list(whole.fill(1)) == [1, 2, 3]
    assert whole.load().shape == whole.shape == (3 * PART, 2, 16, 16)
    begun = DataFile(path, pde, 16, 0, 3)
    next(begun.fill(1))
    assert begun.done() == 1
    assert torch.equal(begun.load(), whole.load()[:PART])
    assert list(DataFile(path, pde, 16, 0, 3).fill(1)) == [2, 3]
    assert torch.equal(begun.load(), whole.load())
    assert list(begun.fill(1)) == []
    for other in (DataFile(path, pde, 16, 1, 3), DataFile(path, get_pde("helmholtz"), 16, 0, 3)):
        assert other.done() == 0
    path.write_bytes(path.read_bytes()[:-1])
    assert begun.done() == 0
    assert whole.load().std((0, 2, 3)) == pytest.approx([0.5, 0.5], abs=0.2)


def test_killed_while_writing_statistics(tmp_path, monkeypatch):
    """A kill leaves no half of a file where the next run looks for one."""

    def killed(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("numpy.savez_compressed", killed)
    with pytest.raises(KeyboardInterrupt):
        write_statistics(tmp_path / "poisson-16.npz", get_pde("poisson"), 16, 1, 1)
    assert not (tmp_path / "poisson-16.npz").exists()
    monkeypatch.undo()
    write_statistics(tmp_path / "poisson-16.npz", get_pde("poisson"), 16, 1, 1)
    assert statistics.Statistics.load(tmp_path / "poisson-16.npz").n == PART
    assert os.listdir(tmp_path) == ["poisson-16.npz"]


def test_worker_processes_draw_the_same(tmp_path):
    alone, many = (DataFile(tmp_path / f"{n}.npy", get_pde("poisson"), 16, 0, 3) for n in (1, 2))
    assert list(alone.fill(1)) == list(many.fill(2))
    assert torch.equal(alone.load(), many.load())


def test_dead_worker_is_one_sentence():
    with pytest.raises(InputError, match="use fewer"):
        list(in_processes(os._exit, [(1,), (1,)], 2))


@pytest.mark.parametrize("name", pde_names())
def test_plan_at_128(name):
    """About four to five million parameters, under 10 MB, within the minutes asked for."""
    pde, options = get_pde(name), Options(name, 128, 30.0, "cuda", 16)
    rates = replace(FAST, part=53.0 if name == "kolmogorov" else 8.0)
    plan = make_plan(pde, options, rates)
    assert 3e6 < parameters(plan.network) < 5.5e6
    rows = table(pde, options, rates, plan)
    assert [row["stage"] for row in rows] == list(STAGES)
    assert 15 < sum(row["minutes"] for row in rows) <= 30
    assert all(row["minutes"] <= 30 * SHARES[row["stage"]] + 7.5 for row in rows)
    assert max(row["bytes"] for row in rows) <= tier_plan.MAX_DATA
    assert plan.network.resolution == 128
    assert 8 * plan.prior_box**2 * len(pde.channels) <= plan.parts * PART


def test_network_fills_the_limit():
    pde = get_pde("darcy")
    network = widest_network(pde, 128, 16, LIMIT)
    wider = replace(network, base_channels=network.base_channels + 4)
    sizes = [tier_plan.checkpoint_bytes(n, tier_plan.PriorConfig(16, tier_plan.bases(pde))) for n in (network, wider)]
    assert sizes[0] <= LIMIT < sizes[1]
    with pytest.raises(InputError, match="fits"):
        widest_network(pde, 128, 16, 10_000)


def test_operations_are_counted():
    """A network of one level without attention: its convolutions by hand, twice the multiplications."""
    network = NetworkConfig(16, 2, 1, 8, (1,), 1, ())
    forward = flops(network, None)
    convolutions = 9 * 256 * 2 * (2 * 8 + 2 * 64 + 2 * 64 + 2 * 64 + 2 * (16 * 8 + 64) + 8)
    assert convolutions < forward < 1.7 * convolutions
    assert 2.5 * forward < flops(network, "all") < 3 * forward
    assert forward < flops(network, "last") <= flops(network, "decoder") < flops(network, "all")


def test_dry_run_prints_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--pde", "poisson", "--resolution", "16", "--workers", "2", "--megabytes", "1.3", "--dry-run"]
    assert main(["tier", *options, "--device", "cpu", "--minutes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "(measured)" in printed
    assert "assumed" not in printed
    assert all(stage in printed for stage in (*STAGES, "total", "TFLOP", "minutes"))
    assert os.listdir(tmp_path) == []
    if not torch.cuda.is_available():
        assert not measure(replace(OPTIONS, device="cuda", limit=1_300_000)).measured
        assert main(["tier", *options[:-1], "--device", "cuda"]) == 2
        assert "--dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--minutes", "0"], ["--minutes", "nan"], ["--device", "tpu"], ["--workers", "1000"], ["--resolution", "8"],
        ["--resolution", "600"], ["--pde", "stokes"], ["--seed", "-1"], ["--megabytes", "0.01"],
        ["--megabytes", "inf"], ["--megabytes", "nan"], ["--megabytes", "-1"], ["--workers", "0"],
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["tier", "--pde", "poisson", "--resolution", "16", "--device", "cpu", "--workers", "1", "--dry-run"]
    assert main([*base, *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_many_cores(tmp_path, capsys, monkeypatch):
    """More of them than processes are allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 400)
    options = ["--pde", "poisson", "--resolution", "16", "--minutes", "1", "--device", "cpu", "--dry-run"]
    assert main(["tier", *options]) == 0
    assert "256 processes" in capsys.readouterr().out


def test_device_that_is_missing(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="no CUDA device"):
        Tier(replace(OPTIONS, device="cuda"), tmp_path, tmp_path)


def test_shares_make_a_whole():
    assert sum(SHARES.values()) == pytest.approx(1)
