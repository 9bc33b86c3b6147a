"""The checkpoint format: what is written comes back, and nothing else gets in."""

import pickle
from dataclasses import asdict, replace

import pytest
import torch
from spoiled import filled, no_parent, refused, rewrite, with_first
from tiny import PRIORS, info_of, prior_config, tiny_denoiser

from pirf_app.diffusion.sampler import Schedule, initial_noise
from pirf_app.models import checkpoint
from pirf_app.models.checkpoint import file_sha256, load_checkpoint, read_info, save_checkpoint
from pirf_app.pdes import get_pde, pde_names


@pytest.mark.parametrize("name", pde_names())
@pytest.mark.parametrize("prior", PRIORS)
def test_base_round_trip(name, prior, tmp_path):
    model = tiny_denoiser(name, prior=prior)
    info = info_of(model, name)
    sha256 = save_checkpoint(tmp_path / "a.safetensors", model, info)
    loaded = load_checkpoint(tmp_path / "a.safetensors", no_parent, sha256)
    assert loaded.info == info
    assert loaded.sha256 == sha256 == file_sha256(tmp_path / "a.safetensors")
    assert loaded.info.schedule == Schedule(18, 0.03, solver="multistep")
    assert loaded.denoiser.prior_config == prior_config(name, prior)
    assert not any(p.requires_grad for p in loaded.denoiser.parameters())
    x, sigma = initial_noise(2, (len(get_pde(name).channels), 16, 16), 0), torch.tensor(0.3)
    expected = model(x, sigma)
    assert (loaded.denoiser(x, sigma) - expected).norm() < 2e-3 * expected.norm()


def test_saving_what_was_loaded_gives_the_same_file(base_file, tmp_path):
    loaded = load_checkpoint(base_file, no_parent)
    for _ in range(8):
        assert save_checkpoint(tmp_path / "again.safetensors", loaded.denoiser, loaded.info) == loaded.sha256
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_truncated(base_file, keep):
    content = base_file.read_bytes()
    base_file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(load_checkpoint, base_file, no_parent)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is a text file\n" * 100,
        b"\xff" * 64,
        (10**15).to_bytes(8, "little") + b"{}",
        b"PK\x03\x04" + b"\0" * 999,
    ],
)
def test_other_files(base_file, content):
    base_file.write_bytes(content)
    refused(load_checkpoint, base_file, no_parent)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_not_read(tmp_path):
    for name in ("model.pkl", "model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        refused(load_checkpoint, tmp_path / name, no_parent)
    torch.save(tiny_denoiser("darcy").state_dict(), tmp_path / "model.pt")
    refused(load_checkpoint, tmp_path / "model.pt", no_parent)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: {}, "tensors"),
        (lambda t: t | {"extra": torch.zeros(1)}, "unknown"),
        (lambda t: {k: v for k, v in t.items() if "out_conv" not in k}, "missing"),
        (lambda t: {k.replace("network", "net"): v for k, v in t.items()}, "unknown"),
        (lambda t: with_first(t, lambda v: v[:1].clone()), "shape"),
        (lambda t: with_first(t, lambda v: v.flatten().clone()), "shape"),
        (lambda t: with_first(t, lambda v: v.to(torch.int8)), "dtype"),
        (lambda t: with_first(t, lambda v: v.double()), "dtype"),
        (lambda t: with_first(t, lambda v: v.bool()), "dtype"),
        (lambda t: with_first(t, filled(float("nan"))), "finite"),
        (lambda t: with_first(t, filled(float("inf"))), "finite"),
        (lambda t: t | {"prior.variance": t["prior.variance"] * float("nan")}, "finite"),
        (lambda t: {k: v for k, v in t.items() if k != "prior.rotation"}, "missing"),
        (lambda t: t | {"prior.rotation": t["prior.rotation"][:8, :8].clone()}, "shape"),
        (lambda t: t | {"prior.rows": torch.zeros(2, 16, 16)}, "unknown"),
    ],
)
def test_wrong_tensors(base_file, change, word):
    assert word in refused(load_checkpoint, rewrite(base_file, change), no_parent)


def test_file_over_the_limit(base_file, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 1000)
    assert "MB" in refused(read_info, base_file)


def test_info_is_complete_in_the_file(base_file):
    info = read_info(base_file)
    assert info.title == "darcy-16-base"
    assert replace(info, method="pirf").title == "darcy-16-pirf"
    assert set(asdict(info)) >= {
        "pde",
        "resolution",
        "method",
        "network",
        "normalisation",
        "sampler",
        "recipe",
        "figures",
    }
