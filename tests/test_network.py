"""The network: shapes, padding, patches, and the part of it that is trained."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny import tiny_config, tiny_denoiser

from pirf_app.common.checks import InputError
from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.network import NetworkConfig, UNet
from pirf_app.diffusion.sampler import initial_noise

pytestmark = pytest.mark.usefixtures("quick_data")
SUFFIXES = ("last", "highres", "decoder", "all")


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(16, 2, 2, 8, (1, 2), 1, (8,)),
        NetworkConfig(32, 4, 2, 8, (1, 2, 2, 3), 2, (16, 8)),
        NetworkConfig(16, 3, 3, 12, (1,), 1, ()),
        NetworkConfig(8, 1, 1, 4, (2, 1), 3, (8,)),
        NetworkConfig(32, 4, 2, 8, (1, 2), 1, (8,), 2, ("zeros", "circular"), (0.5, 4.0)),
        NetworkConfig(32, 1, 3, 8, (1, 2), 1, (), 4),
    ],
    ids=str,
)
def test_output_has_the_shape_of_the_fields(config):
    x = torch.randn(3, config.in_channels, config.resolution, config.resolution)
    assert UNet(config)(x, torch.zeros(3)).shape == (3, config.out_channels, config.resolution, config.resolution)
    assert NetworkConfig.from_dict(config.to_dict()) == config.check()


def test_published_size():
    """EDM's DDPM++ at 128 channels, multipliers 1, 2, 2, 2, four blocks a level: 55 to 62 million parameters."""
    with torch.device("meta"):
        network = UNet(NetworkConfig(128, 2, 2, 128, (1, 2, 2, 2), 4, (16,)))
        assert network(torch.empty(1, 2, 128, 128), torch.empty(1)).shape == (1, 2, 128, 128)
    assert 50e6 < sum(p.numel() for p in network.parameters()) < 65e6


def test_files_from_before_patches_keep_their_metadata():
    """What has its default is not written: the SHA-256 of an old network's file stays what it was."""
    old = {"resolution", "in_channels", "out_channels", "base_channels", "multipliers", "blocks", "attention"}
    assert set(NetworkConfig().to_dict()) == old
    assert set(NetworkConfig(patch=2, row_waves=(1.0,)).to_dict()) == old | {"patch", "row_waves"}


def test_untrained_network_predicts_nearly_nothing():
    network = UNet(tiny_config("darcy", "isotropic"))
    assert network(torch.randn(2, 2, 16, 16), torch.zeros(2)).abs().max() < 1e-3


def shaken(network: UNet) -> UNet:
    """With every weight perturbed, so that the layers which start near zero take part."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(
    ("padding", "waves", "moves"),
    [
        (("zeros", "zeros"), (), (False, False)),
        (("zeros", "circular"), (), (False, True)),
        (("circular", "circular"), (), (True, True)),
        (("circular", "circular"), (1.0,), (False, True)),
    ],
)
def test_output_shifts_with_the_input_along_an_axis_that_closes(padding, waves, moves, patch):
    """By whole pixels of the coarsest level; where rows are told apart, not along them."""
    config = NetworkConfig(16, 2, 2, 8, (1, 2), 1, (8,), patch, padding, waves).check()
    network, x, label = shaken(UNet(config)), initial_noise(2, (2, 16, 16), 0), torch.tensor([0.1, -0.4])
    with torch.no_grad():
        output = network(x, label)
        for axis in (0, 1):
            change = network(x.roll(4, 2 + axis), label) - output.roll(4, 2 + axis)
            assert bool(change.abs().max() < 1e-4 * output.abs().max()) == moves[axis]


def test_patches_reach_every_weight_and_pixel():
    config = NetworkConfig(16, 2, 2, 8, (1, 2), 1, (), 2, ("zeros", "circular"), (0.5,)).check()
    network, x = shaken(UNet(config)), initial_noise(2, (2, 16, 16), 0).requires_grad_()
    network(x, torch.tensor([0.1, -0.4])).square().mean().backward()
    assert (x.grad != 0).all()
    assert all((p.grad != 0).any() for p in network.parameters())


def suffix_of(network: UNet, trainable: str) -> set[str]:
    """The decoder's blocks from the first one at a fine enough level, and the output layers."""
    levels = {"last": 0, "highres": 1, "decoder": 99}
    if trainable == "all":
        return {name for name, _ in network.named_parameters()}
    first = [level <= levels[trainable] for level in network.decoder_level].index(True)
    owners = {f"decoder.{i}" for i in range(first, len(network.decoder))} | {"out_norm", "out_conv"}
    return {
        n for n, _ in network.named_parameters() if ".".join(n.split(".")[:2]) in owners or n.split(".")[0] in owners
    }


@pytest.mark.parametrize("trainable", SUFFIXES)
def test_freeze_leaves_a_suffix_trainable(trainable):
    network = UNet(NetworkConfig(16, 2, 2, 8, (1, 2, 2), 1, (8,)))
    returned = network.freeze(trainable)
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert names == suffix_of(network, trainable)
    assert {id(p) for p in returned} == {id(p) for n, p in network.named_parameters() if n in names}
    assert len(network.freeze("all")) == len(list(network.parameters()))


def test_suffixes_are_nested_and_shrink():
    network = UNet(NetworkConfig(16, 2, 2, 8, (1, 2, 2), 1, (8,)))
    sizes = [sum(p.numel() for p in network.freeze(t)) for t in SUFFIXES]
    assert sizes == sorted(set(sizes))
    assert all(suffix_of(network, a) < suffix_of(network, b) for a, b in zip(SUFFIXES, SUFFIXES[1:], strict=False))


@contextmanager
def bytes_kept(network):
    """Bytes of activations (not weights) that autograd keeps for the backward pass."""
    weights, seen = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(seen.values())


def outputs_and_gradients(model: Denoiser, trainable: str):
    model.network.freeze(trainable)
    model.zero_grad(set_to_none=True)
    with bytes_kept(model) as kept:
        output = model(initial_noise(2, (model.config.out_channels, 16, 16), 0), torch.tensor([0.1, 0.5]))
    output.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.detach(), gradients, kept()


@pytest.mark.parametrize("name", ["darcy", "kolmogorov"])
def test_frozen_part_runs_without_a_graph_and_the_suffix_gets_its_full_gradient(name):
    model = tiny_denoiser(name)
    reference, full, most = outputs_and_gradients(model, "all")
    kept = []
    for trainable in ("last", "highres", "decoder"):
        output, gradients, memory = outputs_and_gradients(model, trainable)
        assert torch.equal(output, reference)
        assert {n.removeprefix("network.") for n in gradients} == suffix_of(model.network, trainable)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, full[name])
        kept.append(memory)
    assert kept == sorted(kept)
    assert kept[0] < 0.5 * most
    assert kept[-1] < 0.8 * most


def test_frozen_layers_return_tensors_without_history():
    model, histories = tiny_denoiser("darcy"), {}
    network = model.network
    network.freeze("last")
    for i, layer in enumerate((*network.encoder, *network.decoder)):
        layer.register_forward_hook(lambda _, __, output, i=i: histories.__setitem__(i, output.requires_grad))
    model(initial_noise(1, (2, 16, 16), 0), torch.tensor([0.1]))
    assert [histories[i] for i in sorted(histories)] == [i >= network.first_trainable for i in range(len(histories))]
    assert 0 < network.first_trainable < len(histories)


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": 7}, {"resolution": 18}, {"resolution": 16.0}, {"resolution": 1024}, {"in_channels": 0},
        {"out_channels": True}, {"base_channels": 7}, {"base_channels": 2}, {"base_channels": 8.0},
        {"base_channels": 10**6}, {"multipliers": ()}, {"multipliers": [1, 2]}, {"multipliers": (1, 0)},
        {"multipliers": (1.0, 2)}, {"multipliers": (1,) * 7}, {"multipliers": (1, 1000)}, {"multipliers": 2},
        {"multipliers": (1, 1, 1, 1, 1)}, {"blocks": 0}, {"blocks": 9}, {"attention": (8.5,)}, {"attention": None},
        {"attention": (True,)}, {"patch": 3}, {"patch": 0}, {"patch": 2.0}, {"patch": 8}, {"padding": ("zeros",)},
        {"padding": ("zeros", "mirror")}, {"padding": "zeros"}, {"row_waves": (0,)}, {"row_waves": ("1",)},
        {"row_waves": 4.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_networks_are_refused(changes):
    config = NetworkConfig(16, 4, 2, 8, (1, 2, 2), 1, (8,))
    assert config.check() is config
    with pytest.raises(InputError, match=r"^[^\n]{,200}$"):
        replace(config, **changes).check()
