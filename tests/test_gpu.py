"""On a CUDA device, against the CPU: the same noise gives the same fields, and every trainer runs there."""

import json
from dataclasses import replace

import pytest
import torch
from terminal import run
from tiny import info_of, tiny_config, tiny_denoiser, tuned_from
from tiny_runs import every_method

from pirf_app.common.parallel import alone_on
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.diffusion.sampler import Schedule
from pirf_app.evaluation.figures import draw_fields
from pirf_app.methods.registry import METHODS
from pirf_app.models.checkpoint import Checkpoint, read_info
from pirf_app.models.library import guided
from pirf_app.pdes import get_pde, pde_names
from pirf_app.tier import plan
from pirf_app.tier.benchmark import fine_tuning, sampling
from pirf_app.training.events import TuningStep
from pirf_app.training.pretraining import PretrainConfig, Pretraining

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("quick_data"),
]
every_pde = pytest.mark.parametrize("name", pde_names())


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Without TF32, which keeps ten bits of a factor."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def checkpoint_of(name: str, prior: str = "modes") -> Checkpoint:
    model = tiny_denoiser(name, prior=prior)
    return Checkpoint(model, info_of(model, name), "0" * 64)


@every_pde
@pytest.mark.parametrize("prior", ["isotropic", "modes", "low-rank"])
@pytest.mark.parametrize("solver", ["heun", "multistep"])
def test_same_seed_same_fields(name, prior, solver):
    checkpoint = checkpoint_of(name, prior)
    info = replace(checkpoint.info, sampler=Schedule(18, 0.03, solver=solver).to_dict())
    checkpoint = replace(checkpoint, info=info)
    expected, _ = draw_fields(checkpoint, 6, 3, 7)
    checkpoint.denoiser.to("cuda")
    drawn, _ = draw_fields(checkpoint, 6, 3, 7)
    assert drawn.device.type == "cpu"
    pde = get_pde(name)
    difference = pde.normalise(drawn) - pde.normalise(expected)
    assert difference.abs().max() < 1e-3 * pde.normalise(expected).abs().max()


@every_pde
@pytest.mark.parametrize("method", GUIDANCE)
def test_guidance_on_both_devices(name, method):
    checkpoint = guided(checkpoint_of(name), method)
    expected, _ = draw_fields(checkpoint, 4, 2, 7)
    checkpoint.denoiser.to("cuda")
    drawn, _ = draw_fields(checkpoint, 4, 2, 7)
    assert (drawn - expected).abs().max() < 1e-2 * expected.abs().max()


@every_pde
def test_tuned_model_on_both_devices(name):
    base = checkpoint_of(name)
    checkpoint = replace(base, denoiser=tuned_from(base.denoiser))
    expected, _ = draw_fields(checkpoint, 6, 2, 7)
    checkpoint.denoiser.to("cuda")
    drawn, _ = draw_fields(checkpoint, 6, 2, 7)
    assert (drawn - expected).norm() < 1e-3 * expected.norm()


@every_pde
def test_residual_on_both_devices(name):
    pde = get_pde(name)
    fields = pde.generate(2, 16, 3)
    fields = fields + 0.1 * fields.std() * torch.randn(fields.shape, generator=torch.Generator().manual_seed(0))
    for of in (pde.residual, pde.error_field, pde.second_residual, pde.paper_residual, pde.balance, pde.solve):
        expected, found = of(fields), of(fields.cuda())
        assert found.is_cuda
        assert (found.cpu() - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("compiled", [False, True])
def test_pretraining(compiled, tmp_path):
    config = PretrainConfig(samples=320, batch=16, warmup_samples=32, ema_samples=100, prior_box=4, prior_samples=64)
    pde = get_pde("poisson")
    pool = pde.normalise(pde.generate(64, 16, 5)).cuda()
    run = Pretraining(pde, tiny_config("poisson"), config, alone_on("cuda"), pool)
    if compiled:
        run.model.network.compile()
    losses = [step.loss for step in run.run()]
    assert sum(losses[-5:]) < sum(losses[:5])
    run.save(tmp_path / "run.state")
    again = Pretraining.load(pde, tmp_path / "run.state", alone_on("cuda"), pool)
    assert again.update == 20
    run.export(tmp_path / "base.safetensors")


@every_method
@every_pde
def test_fine_tuning(name, method, tmp_path):
    base, kind = checkpoint_of(name), METHODS[method]
    config = kind.config(updates=3, pool=8, pool_steps=(4,), batch=4, validation=2, warmup=1, last_steps=2)
    run = kind.tuning(base, config, alone_on("cuda"))
    steps = [event for event in run.run() if isinstance(event, TuningStep)]
    assert steps[-1].update == 3
    assert steps[-1].validation_residual > 0
    run.save(tmp_path / "run.state")
    assert kind.tuning.load(base, tmp_path / "run.state", alone_on("cuda")).update == 3
    run.export(tmp_path / "tuned.safetensors")


def test_benchmark_measures_the_gpu():
    checkpoint = checkpoint_of("darcy")
    assert sampling(checkpoint, 4, 2, "cuda")["peak_bytes"] > 0
    assert fine_tuning(checkpoint, 1, "decoder", 4, "cuda")["updates_per_second"] > 0


COMMANDS = {
    "sample": ["sample", "--pde", "poisson", "--steps", 3, "--n", 2, "--json"],
    "evaluate": ["evaluate", "--pde", "poisson", "--steps", 3, "--n", 2, "--json", "report.json"],
    "pretrain": [
        "pretrain", "--pde", "poisson", "--resolution", 16, "--channels", 8, "--multipliers", "1,2",
        "--prior-box", 0, "--batch", 4, "--samples", 8,
    ],
    "finetune": [
        "finetune", "--pde", "poisson", "--updates", 2, "--pool", 4, "--batch", 2, "--validation", 2,
        "--pool-steps", 4,
    ],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("options", "used"), [([], True), (["--device", "cuda"], True), (["--device", "cpu"], False)])
def test_commands_compute_where_they_are_told_to(command, options, used, small_models, capsys):
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    assert run(*COMMANDS[command], *options) == 0
    assert (torch.cuda.memory_stats()["allocation.all.allocated"] > before) == used
    name = torch.cuda.get_device_name() if used else "cpu"
    if command == "sample":
        assert json.loads(capsys.readouterr().out)["device"] == name
    if command == "evaluate":
        with open("report.json") as file:
            assert json.load(file)["environment"]["device"] == name


def test_a_state_goes_on_on_another_device(small_models):
    for options in (["--samples", 8], ["--samples", 16, "--resume", "--device", "cpu"], ["--samples", 24, "--resume"]):
        assert run(*COMMANDS["pretrain"], *options, "--out", "base.safetensors") == 0
    assert read_info("base.safetensors").recipe["updates"] == 6


def test_training_rate_is_measured():
    assert plan.training_flops(get_pde("poisson"), tiny_config("poisson"), 16, "cuda") > 1e8
