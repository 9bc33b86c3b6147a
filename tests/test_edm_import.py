"""Published EDM networks: the same function after import, or a refusal."""

import os

import numpy as np
import pytest
import torch
from edm_files import SMALL, network, refused, run
from edm_reference import Persistent, contents, write_pickle

from pirf_app.cli.main import main
from pirf_app.diffusion.sampler import Schedule, initial_noise
from pirf_app.evaluation.figures import draw_fields
from pirf_app.methods.pirf import PirfConfig, PirfTuning
from pirf_app.models.checkpoint import Checkpoint, load_checkpoint
from pirf_app.models.edm.network import import_edm
from pirf_app.models.library import Library
from pirf_app.pdes import get_pde

SIZES = [
    ("darcy", 16, SMALL),
    ("burgers", 32, {"width": 16, "multipliers": (1, 2, 2), "blocks": 2, "attention": (16, 8)}),
    ("kolmogorov", 16, {"width": 20, "multipliers": (2,), "blocks": 1, "attention": ()}),
    ("poisson", 32, {"width": 32, "multipliers": (1, 2, 1, 3), "blocks": 3, "attention": (32, 4)}),
    ("helmholtz", 16, {"width": 160, "multipliers": (1, 1), "blocks": 1, "attention": (16,)}),
]


@pytest.mark.parametrize(("pde", "resolution", "size"), SIZES, ids=lambda value: str(value)[:60])
def test_imported_network_is_the_same_function(pde, resolution, size, tmp_path):
    reference = network(pde, resolution, size)
    model, info = import_edm(write_pickle(tmp_path / "net.pkl", contents(reference)), pde)
    x = initial_noise(2, (len(get_pde(pde).channels), resolution, resolution), 1)
    for sigma in (0.002, 0.1, 1.0, 80.0):
        levels = torch.tensor([sigma, 1.3 * sigma])
        noisy = x * (0.25 + levels[:, None, None, None] ** 2).sqrt()
        torch.testing.assert_close(model(noisy, levels), reference(noisy, levels), atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in model.parameters())
    assert (info.resolution, info.schedule) == (resolution, Schedule(18, 0.002, 80.0, 7.0, "heun"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(protocol, tmp_path):
    reference = network()
    model, _ = import_edm(write_pickle(tmp_path / "net.pkl", contents(reference), protocol), "darcy")
    x, sigma = initial_noise(2, (2, 16, 16), 1), torch.tensor([0.3, 2.0])
    torch.testing.assert_close(model(x, sigma), reference(x, sigma), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_and_layouts(kind, tmp_path):
    reference = network().to(kind)
    model, _ = import_edm(write_pickle(tmp_path / "net.pkl", contents(reference)), "darcy")
    again = reference.float()
    for module in again.modules():  # the same numbers, laid out otherwise in the file
        if hasattr(module, "weight") and module.weight.ndim == 4:
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    other, _ = import_edm(write_pickle(tmp_path / "last.pkl", contents(again)), "darcy")
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_layer_for_augmentation_labels_is_left_out(tmp_path):
    reference = network()
    plain, _ = import_edm(write_pickle(tmp_path / "plain.pkl", contents(reference)), "darcy")
    reference.model.map_augment = edm_linear(9, 8)
    model, _ = import_edm(write_pickle(tmp_path / "net.pkl", contents(reference)), "darcy")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def edm_linear(c_in: int, c_out: int) -> Persistent:
    from edm_reference import Linear

    return Linear(c_in, c_out, bias=False)


def test_command_writes_a_checkpoint_that_samples(tmp_path, capsys):
    reference = network()
    path = write_pickle(tmp_path / "net.pkl", contents(reference))
    full = tmp_path / "full.safetensors"
    assert run("models", "import-edm", path, "--pde", "darcy", capsys=capsys)[0] == 0
    assert run("models", "import-edm", path, "--pde", "darcy", "--out", full, "--float32", capsys=capsys)[0] == 0
    half = tmp_path / "net.safetensors"
    assert half.stat().st_size < 0.6 * full.stat().st_size
    x, sigma = initial_noise(2, (2, 16, 16), 1), torch.tensor([0.3, 2.0])
    expected = reference(x, sigma)
    library = Library(tmp_path)
    torch.testing.assert_close(library.load_file(full).denoiser(x, sigma), expected, atol=1e-5, rtol=1e-5)
    assert (library.load_file(half).denoiser(x, sigma) - expected).norm() < 2e-3 * expected.norm()
    fields, nfe = draw_fields(library.load_file(half), 4, 2, 0)
    assert (nfe, fields.shape, bool(fields.isfinite().all())) == (7, (2, 2, 16, 16), True)
    assert main(["models", "verify", str(half), str(full)]) == 0


UNITS = {"offset": [7.0, 0.5], "scale": [8.0, 0.25]}


def imported(tmp_path, capsys) -> Checkpoint:
    """Written with a normalisation of its own, and read back."""
    path = write_pickle(tmp_path / "net.pkl", contents(network()))
    options = ["--pde", "darcy", "--offset", "7,0.5", "--scale", "8,0.25"]
    assert run("models", "import-edm", path, *options, capsys=capsys)[0] == 0
    return Library(tmp_path).load_file(tmp_path / "net.safetensors")


def test_normalisation_of_its_own(tmp_path, capsys):
    checkpoint = imported(tmp_path, capsys)
    assert checkpoint.info.normalisation == UNITS == checkpoint.problem.normalisation()
    offset, scale = (torch.tensor(UNITS[key]).view(-1, 1, 1) for key in ("offset", "scale"))
    x = initial_noise(2, (2, 16, 16), 1)
    torch.testing.assert_close(checkpoint.problem.denormalise(x), offset + scale * x)
    torch.testing.assert_close(checkpoint.problem.normalise(checkpoint.problem.denormalise(x)), x)
    assert checkpoint.problem.name == "darcy"
    assert get_pde("darcy").normalisation() != UNITS
    own, _ = import_edm(tmp_path / "net.pkl", "darcy")
    info = import_edm(tmp_path / "net.pkl", "darcy")[1]
    plain, _ = draw_fields(Checkpoint(own, info, ""), 3, 2, 0)
    drawn, _ = draw_fields(checkpoint, 3, 2, 0)
    x = get_pde("darcy").normalise(plain)
    assert (drawn - (offset + scale * x)).abs().max() < 0.02 * drawn.abs().max()


def test_imported_network_can_be_tuned(tmp_path, capsys):
    checkpoint = imported(tmp_path, capsys)
    config = PirfConfig(updates=1, pool=4, pool_steps=(3,), batch=2, validation=2, warmup=1)
    tuning = PirfTuning(checkpoint, config)
    assert tuning.pde.normalisation() == UNITS
    assert [event.update for event in tuning.run() if hasattr(event, "update")] == [0, 1]
    tuning.export(tmp_path / "tuned.safetensors")
    tuned = load_checkpoint(tmp_path / "tuned.safetensors", lambda sha256: checkpoint)
    assert tuned.info.normalisation == UNITS


@pytest.mark.parametrize(
    "options",
    [
        ["--offset", "1,2"], ["--scale", "1,2"], ["--offset", "1", "--scale", "1,2"], ["--offset", "a", "--scale", "1"],
        ["--offset", "0,0", "--scale", "0,1"], ["--offset", "0,0", "--scale", "1,-1"],
        ["--offset", "0,nan", "--scale", "1,1"], ["--out", "net.pt"], ["--out", "nowhere/net.safetensors"],
        ["--pde", "stokes"],
    ],
    ids=str,
)  # fmt: skip
def test_bad_options(options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_pickle(tmp_path / "net.pkl", contents(network()))
    code, message = run("models", "import-edm", path, "--pde", "darcy", *options, capsys=capsys)
    assert code == 2
    assert message.startswith("Error: ")
    assert message.count("\n") == 1
    assert os.listdir(tmp_path) == ["net.pkl"]


class FourierEmbedding(Persistent):
    """What NCSN++ has in place of the positional embedding."""


def renamed(module, name: str, **attributes):
    """`module` as one of a class called `name`, with its attributes and these."""
    made = type(name, (Persistent,), {})()
    made.__dict__.update(module.__dict__, **attributes)
    return made


def change(what: str):
    """A network that differs from a DDPM++ one in one thing."""
    reference = network()
    model, block = reference.model, reference.model.enc["16x16_block0"]
    match what:
        case "VPPrecond":
            return renamed(reference, what)
        case "DhariwalUNet":
            reference._modules["model"] = renamed(model, what)
        case "FourierEmbedding":
            model.map_noise = FourierEmbedding()
        case "sigma_data":
            reference.sigma_data = 1.0
        case "label_dim":
            reference.label_dim = 10
        case "map_label":
            model.map_label = edm_linear(10, 8)
        case "skip_scale":
            block.skip_scale = np.float64(1.0)
        case "huge":
            block.skip_scale = 10**400
        case "adaptive_scale":
            block.adaptive_scale = True
        case "heads":
            model.dec["8x8_in0"].num_heads = 4
        case "eps":
            block.norm0.eps = 1e-5
        case "endpoint":
            model.map_noise.endpoint = False
        case "groups":
            block.norm0.num_groups = 1
        case "filter":
            model.enc["8x8_down"].conv0.resample_filter = torch.tensor([1.0, 3.0, 3.0, 1.0])[None, None, None] / 8
        case "level":
            model.enc["4x4_down"] = model.enc.pop("8x8_down")
        case "aux":
            model.dec["8x8_aux_conv"] = model.dec["16x16_aux_conv"]
        case "no conv":
            del model.enc["16x16_conv"]
        case "no block":
            del model.dec["8x8_in1"]
        case "number":
            block._parameters["scale"] = 3
        case "modules":
            reference._modules = None
        case "loop":
            for _ in range(12):
                block.sub = renamed(block, "UNetBlock")
                block = block.sub
    return reference


CHANGES = {
    "VPPrecond": "VPPrecond", "DhariwalUNet": "DhariwalUNet", "FourierEmbedding": "FourierEmbedding",
    "sigma_data": "sigma_data", "label_dim": "label_dim", "map_label": "map_label", "skip_scale": "skip_scale",
    "adaptive_scale": "adaptive_scale", "heads": "heads", "eps": "eps", "endpoint": "endpoint", "groups": "groups",
    "filter": "filter", "level": "4x4", "aux": "8x8_aux_conv", "no conv": "16x16_conv", "no block": "8x8_in1",
    "number": "scale", "modules": "table", "loop": "deep", "huge": "a huge number",
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_networks_that_are_another_function(what, tmp_path):
    assert CHANGES[what] in refused(write_pickle(tmp_path / "net.pkl", contents(change(what))))


@pytest.mark.parametrize("pde", ["burgers", "kolmogorov"])
def test_wrong_channels(pde, tmp_path, capsys):
    path = write_pickle(tmp_path / "net.pkl", contents(network()))
    message = refused(path, pde)
    assert "2 channels" in message
    assert pde in message
    assert run("models", "import-edm", path, "--pde", pde, capsys=capsys)[0] == 2
    assert os.listdir(tmp_path) == ["net.pkl"]


def test_weights_too_large_for_half_precision(tmp_path, capsys):
    reference = network()
    reference.model.map_layer0.weight.data[0, 0] = 1e6
    path = write_pickle(tmp_path / "net.pkl", contents(reference))
    code, message = run("models", "import-edm", path, "--pde", "darcy", capsys=capsys)
    assert code == 2
    assert "--float32" in message
    assert run("models", "import-edm", path, "--pde", "darcy", "--float32", capsys=capsys)[0] == 0
