"""What a checkpoint file says of itself: nothing but what its network and its PDE bear out gets in."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from spoiled import no_parent, refused, rewrite
from tiny import info_of, prior_config, tiny_config, tiny_denoiser

from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.sampler import Schedule
from pirf_app.models import checkpoint
from pirf_app.models.checkpoint import KEY, load_checkpoint, read_info, save_checkpoint
from pirf_app.pdes import get_pde


def test_what_the_tests_below_change_is_what_is_refused(base_file):
    assert load_checkpoint(rewrite(base_file, dict, **network_with(), **prior_with()), no_parent).info.pde == "darcy"


def network_with(**changes) -> dict:
    return {"network": tiny_config("darcy").to_dict() | changes}


def prior_with(**changes) -> dict:
    return {"prior": prior_config("darcy").to_dict() | changes}


def sampler_with(**changes) -> dict:
    return {"sampler": Schedule(18, 0.03).to_dict() | changes}


SINE, ODD = ["sine", "sine"], ["sine", "saw"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": 99},
        {"format_version": 1},
        {"format_version": "1"},
        {"format_version": KeyError},
        {"pde": "stokes"},
        {"pde": None},
        {"pde": ["darcy"]},
        {"pde": KeyError},
        {"surprise": 1},
        {"resolution": 64},
        {"resolution": "16"},
        {"prior_rank": 8},
        {"prior": {}},
        {"prior": None},
        {"prior": "EDM"},
        {"prior": [4]},
        prior_with(box=0),
        prior_with(box=-1),
        prior_with(box=17),
        prior_with(box=10**9),
        prior_with(box=4.0),
        prior_with(box=True),
        prior_with(box=3),
        prior_with(bases=[]),
        prior_with(bases=None),
        prior_with(bases="sine"),
        prior_with(bases=[SINE]),
        prior_with(bases=[SINE, ODD]),
        prior_with(bases=[SINE, ["sine"]]),
        prior_with(bases=[SINE, [1, 2]]),
        prior_with(bases=[SINE, [["sine"], ["sine"]]]),
        prior_with(rank=-1),
        prior_with(rank=10**9),
        prior_with(rank="8"),
        prior_with(bases=[], rank=8),
        prior_with(colour="red"),
        {"network": {}},
        {"network": "large"},
        {"network": {"layers": 3}},
        network_with(base_channels=10**6),
        network_with(base_channels=0),
        network_with(base_channels=-8),
        network_with(base_channels=8.0),
        network_with(base_channels="8"),
        network_with(base_channels=5),
        network_with(base_channels=2),
        network_with(multipliers=[10**9]),
        network_with(multipliers=[]),
        network_with(multipliers=[1, -2]),
        network_with(multipliers=[1] * 7),
        network_with(multipliers=[1.5, 2]),
        network_with(multipliers=3),
        network_with(blocks=10**6),
        network_with(blocks=1.5),
        network_with(attention=3),
        network_with(in_channels=10**6),
        network_with(out_channels=7),
        network_with(patch=1),
        network_with(patch=2),
        network_with(patch=3),
        network_with(padding=["zeros"]),
        network_with(padding=["zeros", "mirror"]),
        network_with(padding=[["zeros"], "zeros"]),
        network_with(row_waves=[float("nan")]),
        network_with(row_waves=[-1.0]),
        network_with(row_waves=3),
        network_with(row_waves=[1.0]),
        {"normalisation": {"mean": [0.0, 0.0], "std": [1.0, 1.0]}},
        {"normalisation": KeyError},
        {"sampler": {"steps": 0}},
        {"sampler": {"sigma_min": float("nan")}},
        {"sampler": {"steps": 10**9}},
        {"sampler": {"spin": 1}},
        sampler_with(solver="euler"),
        sampler_with(solver=None),
        sampler_with(rho=0.5),
        sampler_with(rho=10**400),
        sampler_with(solver="x" * 10**4),
        {"sampler": {k: v for k, v in Schedule().to_dict().items() if k != "solver"}},
        {"sampler": None},
        {"handover": 0.1},
        {"parent": "0" * 64},
        {"parent": "0" * 64, "handover": -1.0},
        {"parent": "0" * 64, "handover": float("nan")},
        {"parent": "0" * 64, "handover": "soon"},
        {"parent": "0" * 64, "handover": 0.1},
        {"recipe": "secret"},
        {"recipe": None},
        {"figures": [1, 2]},
        {"method": 3},
        {"method": ""},
        {"method": " "},
        {"sampler": {}},
        {"parent": 3, "handover": 0.1},
        {"parent": "0" * 64, "handover": True},
        {"handover": [0.1]},
        {"format_version": True},
        {"resolution": 16.0},
        {"surprise" * 100: 1},
        {"pde": "darcy" * 100},
    ],
    ids=lambda c: json.dumps(c, default=lambda _: "absent")[:60],
)
def test_wrong_metadata(base_file, changes):
    refused(load_checkpoint, rewrite(base_file, **changes), no_parent)


def test_hints_that_their_network_cannot_use(tmp_path):
    """They are whitened by the modes of a prior, and computed from fields in this app's own normalisation."""
    pde, path = get_pde("kolmogorov"), tmp_path / "base.safetensors"
    model = tiny_denoiser("kolmogorov")
    save_checkpoint(path, model, info_of(model, "kolmogorov"))
    load_checkpoint(path, no_parent)
    refused(load_checkpoint, rewrite(path, normalisation={"offset": [0.0] * 3, "scale": [7.0] * 3}), no_parent)
    plain = tiny_config("kolmogorov", "isotropic")
    hinted = replace(plain, in_channels=plain.in_channels + pde.hint_channels, hints=pde.hint_channels)
    model = Denoiser(hinted)
    save_checkpoint(path, model, info_of(model, "kolmogorov"))
    refused(load_checkpoint, path, no_parent)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"darcy"', "[" * 100_000])
def test_metadata_that_is_no_json_object(base_file, text):
    save_file({"a": torch.zeros(1)}, base_file, {KEY: text})
    refused(read_info, base_file)


def test_metadata_that_would_fill_the_memory(base_file, monkeypatch):
    rewrite(base_file, recipe={"a": [[]] * 400_000})
    monkeypatch.setattr(checkpoint, "safe_open", None)  # it is not even opened
    assert "MB of metadata" in refused(read_info, base_file)


def test_metadata_is_one_key(base_file):
    with safe_open(base_file, "pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {KEY}
    assert metadata[KEY] == json.dumps(json.loads(metadata[KEY]), sort_keys=True)
    for other in (None, {}, {"info": metadata[KEY]}, metadata | {"format": "pt", "epoch": "3"}):
        save_file({"a": torch.zeros(1)}, base_file, other)
        assert "metadata" in refused(read_info, base_file)
    assert "'epoch'" in refused(read_info, base_file)


def test_what_other_tools_add_when_they_save_a_file_again_does_no_harm(base_file):
    before = load_checkpoint(base_file, no_parent)
    with safe_open(base_file, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, base_file, metadata | {"format": "pt"})
    again = load_checkpoint(base_file, no_parent)
    assert again.info == before.info
    assert all(map(torch.equal, again.denoiser.parameters(), before.denoiser.parameters()))


def test_absurd_network_is_refused_before_it_is_built(base_file, monkeypatch):
    """A small file must not make the app allocate gigabytes: tensors are compared before the network is made."""
    size = {"base_channels": 128, "multipliers": [4, 4, 4, 4, 4, 4], "blocks": 8, "resolution": 512, "in_channels": 4}
    rewrite(base_file, resolution=512, **network_with(**size), **prior_with(box=32))
    elements = []
    real = torch.nn.Parameter.__new__

    def counted(cls, data=None, requires_grad=True):
        elements.append(data.numel() if data is not None and data.device.type != "meta" else 0)
        return real(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", counted)
    refused(load_checkpoint, base_file, no_parent)
    assert sum(elements) < 1e6


@pytest.mark.parametrize(
    "changes", [{"resolution": 18, "multipliers": (1, 2, 2)}, {"base_channels": 2}, {"base_channels": 7}]
)
def test_network_that_fits_its_file_but_cannot_run(tmp_path, changes):
    """Grids that the levels cannot halve and widths without sines and cosines: refused when read, not when sampled."""
    model = Denoiser(replace(tiny_config("darcy", "isotropic"), **changes))
    info = replace(info_of(model, "darcy"), resolution=model.config.resolution)
    save_checkpoint(tmp_path / "a.safetensors", model, info)
    refused(load_checkpoint, tmp_path / "a.safetensors", no_parent)
