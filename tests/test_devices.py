"""Where the commands compute: the device that is asked for, or the launcher's; and that reports name it. There is no
GPU here: what would go to one is counted and stays on the CPU."""

import json

import numpy as np
import pytest
import torch
from terminal import refused, run
from torch.overrides import TorchFunctionMode

from pirf_app.common import parallel
from pirf_app.common.checks import InputError
from pirf_app.common.parallel import Team, alone_on, team
from pirf_app.methods.registry import METHODS
from pirf_app.tier.benchmark import synchronise

pytestmark = pytest.mark.usefixtures("quick_data", "small_models")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NAME = "A GPU of tests"
TUNE = ["--updates", 2, "--pool", 4, "--batch", 2, "--validation", 2, "--pool-steps", 3, "--warmup", 1]
TRAIN = ["--resolution", 16, "--channels", 8, "--multipliers", "1,2", "--prior-box", 0, "--batch", 4, "--samples", 8]
COMMANDS = {
    "sample": ["sample", "--pde", "poisson", "--steps", 2, "--n", 2, "--json"],
    "evaluate": ["evaluate", "--pde", "poisson", "--steps", 2, "--n", 2, "--json", "report.json"],
    "pretrain": ["pretrain", "--pde", "poisson", *TRAIN],
    **{name: ["finetune", "--pde", "poisson", "--method", name, *TUNE] for name in METHODS},
}
every_command = pytest.mark.parametrize("command", COMMANDS)


class PretendedGpu(TorchFunctionMode):
    """Sends what is meant for a GPU to the CPU, and counts how often."""

    sent = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        meant = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.device) and x.type == "cuda"]
        self.sent += len(meant)
        here = lambda x: CPU if isinstance(x, torch.device) else x  # noqa: E731
        return function(*map(here, args), **{k: here(v) for k, v in (kwargs or {}).items()})


class OnTheCpu(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: NAME)
    monkeypatch.setattr(torch, "Generator", OnTheCpu)
    with PretendedGpu() as mode:
        yield mode


def told(command: str, capsys) -> str | None:
    """The device that the command's result names, where it names one."""
    if command == "sample":
        with np.load("out.npz") as file:
            meta = json.loads(str(file["meta"]))["device"]
        assert json.loads(capsys.readouterr().out)["device"] == meta
        return meta
    if command == "evaluate":
        with open("report.json") as file:
            return json.load(file)["environment"]["device"]
    return None


@every_command
@pytest.mark.parametrize(("options", "used"), [([], True), (["--device", "cuda"], True), (["--device", "cpu"], False)])
def test_a_gpu_is_used_unless_the_cpu_is_asked_for(command, options, used, gpu, capsys):
    assert run(*COMMANDS[command], *options) == 0
    assert (gpu.sent > 0) == used
    assert told(command, capsys) in (None, NAME if used else "cpu")


@every_command
@pytest.mark.parametrize("options", [[], ["--device", "auto"], ["--device", "cpu"]])
def test_without_a_gpu_the_cpu_computes_and_is_named(command, options, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*COMMANDS[command], *options) == 0
    assert told(command, capsys) in (None, "cpu")


@pytest.mark.parametrize("command", [*COMMANDS, "benchmark"])
def test_a_device_that_is_not_here_is_refused(command, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = COMMANDS.get(command, ["benchmark", "--pde", "poisson"])
    assert "no CUDA device here: choose --device cpu" in refused(capsys, *arguments, "--device", "cuda")
    assert "one of auto, cpu, cuda" in refused(capsys, *arguments, "--device", "tpu")


@every_command
def test_the_launcher_decides_and_is_not_contradicted(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel, "launched", lambda: Team(0, 1, CPU))
    said = refused(capsys, *COMMANDS[command], "--device", "cuda")
    assert "the launcher has given this process the device cpu: leave out --device" in said
    for options in ([], ["--device", "cpu"]):
        assert run(*COMMANDS[command], *options) == 0


def test_a_launcher_of_one_process_may_keep_to_the_cpu(gpu, monkeypatch):
    assert team().device == CUDA
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert team().device == team("cpu").device == CPU
    with pytest.raises(InputError, match="launcher"):
        team("cuda")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    assert team().device == CUDA


def test_names_of_devices(monkeypatch):
    for there, found in ((True, CUDA), (False, CPU)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert alone_on("auto").device == found
        assert alone_on("cpu").device == CPU
    assert alone_on(CUDA).device == CUDA  # whoever has the device itself is not asked
    with pytest.raises(InputError, match="no CUDA device"):
        alone_on("cuda")
    synchronise(CPU)
