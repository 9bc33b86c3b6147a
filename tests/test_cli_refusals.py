"""One sentence with exit code 2 for anything that the command line cannot do."""

import pytest
from spoiled import rewrite
from terminal import refused, run

from pirf_app.pdes import get_pde, pde_names

every_pde = pytest.mark.parametrize("name", pde_names())
pytestmark = pytest.mark.usefixtures("quick_data", "small_models")


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
    ["sample", "--out", "/proc/out.npz"],
    ["sample", "--method", "base,pirf"],
    ["finetune", "--pde", "darcy", "--from", "cocogen"],
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
    "residual-weight": [1],  # PIDM's
    "learning-rate": ["nan", -1],
    "error-weight": ["nan"],
    "hold": [-1],
    "anchor": [-1],
    "drift": ["inf"],
    "seed": [BIG, -1],
    "warmup": [0],
    "clip": [0, "nan"],
    "ema": [1, -1],
    "validate-every": [0],
    "validation": [0],
    "best-by": ["luck"],
    "chunk": [0],
    "state": ["worst"],
    "from": ["nowhere.safetensors"],
    "save-every": [0, "nan"],
    "out": ["nowhere/a.safetensors", ".", "a.state", "/proc/a.safetensors"],
    "log": ["nowhere/events.jsonl", ".", "my.safetensors", "my.state", "/proc/a.jsonl"],
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


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_memory_that_is_not_given_is_told(monkeypatch, capsys, error):
    def generate(*_):
        raise error

    monkeypatch.setattr(type(get_pde("darcy")), "generate", generate)
    assert "not enough memory" in refused(capsys, "data", "--pde", "darcy", "--n", 2)


def test_any_other_failure_of_a_computation_is_not_taken_for_that(monkeypatch):
    def generate(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(get_pde("darcy")), "generate", generate)
    with pytest.raises(RuntimeError, match="a bug"):
        run("data", "--pde", "darcy", "--n", 2)


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
