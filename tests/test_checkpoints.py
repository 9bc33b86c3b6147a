"""The checkpoint format: what is written comes back, and nothing else gets in."""

import json
import pickle
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import HANDOVER, PRIORS, info_of, prior_config, tiny_config, tiny_denoiser, tuned_from

from pirf_app import checkpoints
from pirf_app.checkpoints import (
    KEY,
    CheckpointError,
    changed_tensors,
    file_sha256,
    load_checkpoint,
    read_info,
    save_checkpoint,
)
from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.sampler import Schedule, initial_noise
from pirf_app.library import Library
from pirf_app.pdes import InputError, get_pde, pde_names


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a base and a tuned checkpoint for Darcy and a base one for Poisson, all 16x16, and its manifest."""
    folder = tmp_path_factory.mktemp("library")
    for pde in ("darcy", "poisson"):
        model = tiny_denoiser(pde)
        save_checkpoint(folder / f"{pde}-16-base.safetensors", model, info_of(model, pde))
    library = Library(folder)
    library.write_manifest()
    base = library.load("darcy", "base", 16)
    info = info_of(base.denoiser, "darcy", "pirf", parent=base.sha256, handover=HANDOVER)
    save_checkpoint(folder / "darcy-16-pirf.safetensors", tuned_from(base.denoiser), info)
    library.write_manifest()
    return folder


@pytest.fixture
def library(template, tmp_path) -> Library:
    """A copy of the template, to spoil."""
    return Library(shutil.copytree(template, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def base_file(library):
    return library.folder / "darcy-16-base.safetensors"


def no_parent(sha256: str):
    raise CheckpointError("there is no parent here")


def refused(call, *args, kind=CheckpointError) -> str:
    with pytest.raises(kind) as error:
        call(*args)
    message = str(error.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return message


def rewrite(path, change_tensors=None, **changes):
    """The file again with tensors or metadata changed."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    if change_tensors:
        tensors = change_tensors(tensors)
    values = json.loads(metadata[KEY]) | changes
    save_file(tensors, path, {KEY: json.dumps({k: v for k, v in values.items() if v is not KeyError})})
    return path


def test_what_the_tests_below_change_is_what_is_refused(base_file):
    assert load_checkpoint(rewrite(base_file, dict, **network_with(), **prior_with()), no_parent).info.pde == "darcy"


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


def test_tuned_round_trip(library):
    base, tuned = library.load("darcy", "base", 16), library.load("darcy", "pirf", 16)
    assert tuned.info.parent == base.sha256
    assert tuned.denoiser.handover == HANDOVER
    expected = tuned_from(base.denoiser)
    x = initial_noise(2, (2, 16, 16), 0)
    for level in (0.03, HANDOVER):
        output = expected(x, torch.tensor(level))
        assert (tuned.denoiser(x, torch.tensor(level)) - output).norm() < 2e-3 * output.norm()
        assert (base.denoiser(x, torch.tensor(level)) - output).norm() > 1e-3 * output.norm()
    above = torch.tensor(0.2)
    assert torch.equal(tuned.denoiser(x, above), base.denoiser(x, above))


def test_tuned_file_holds_only_what_changed(library):
    with safe_open(library.folder / "darcy-16-pirf.safetensors", "pt") as file:
        keys = set(file.keys())
    model = tuned_from(library.load("darcy", "base", 16).denoiser)
    assert keys == set(changed_tensors(model))
    trained = {f"network.{n}" for n, p in model.expert.network.named_parameters() if p.requires_grad}
    assert keys <= trained


def test_library_lists_finds_and_resolves(library, base_file):
    entries = library.manifest()
    assert [e["name"] for e in entries] == ["darcy-16-base", "darcy-16-pirf", "poisson-16-base"]
    assert all(e["sha256"] == file_sha256(library.folder / e["file"]) for e in entries)
    assert all(e["size"] == (library.folder / e["file"]).stat().st_size for e in entries)
    assert library.methods("darcy") == ["base", "pirf"]
    assert library.resolve("darcy", "pirf", 16).info.method == "pirf"
    assert library.resolve("darcy", str(base_file)).info.method == "base"
    assert library.load("darcy", "base", 16) is library.load("darcy", "base", 16)
    assert Library(library.folder / "elsewhere").manifest() == []


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("stokes", "base", 16), InputError),
        (("darcy", "magic", 16), InputError),
        (("darcy", "base", 64), InputError),
        (("poisson", "pirf", 16), InputError),
        (("darcy", "nowhere/file.safetensors"), CheckpointError),
        (("darcy", "nowhere/with\0nul.safetensors"), CheckpointError),
        (("darcy", "/"), CheckpointError),
    ],
)
def test_requests_that_no_checkpoint_meets(library, arguments, kind):
    refused(library.resolve, *arguments, kind=kind)


def test_wrong_pde(library, base_file):
    message = refused(library.resolve, "poisson", str(base_file))
    assert "darcy" in message
    assert "poisson" in message


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


def with_first(tensors: dict, change) -> dict:
    key = "network.out_conv.weight"
    return tensors | {key: change(tensors[key])}


def filled(value: float):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return change


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


def test_metadata_is_one_key(base_file):
    with safe_open(base_file, "pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {KEY}
    assert metadata[KEY] == json.dumps(json.loads(metadata[KEY]), sort_keys=True)
    for other in (None, {}, {"info": metadata[KEY]}, metadata | {"format": "pt"}):
        save_file({"a": torch.zeros(1)}, base_file, other)
        assert "metadata" in refused(read_info, base_file)


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


def test_file_over_the_limit(base_file, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 1000)
    assert "MB" in refused(read_info, base_file)


def test_swapped_and_changed_files_are_noticed(library, base_file):
    other = library.folder / "poisson-16-base.safetensors"
    content = base_file.read_bytes()
    base_file.write_bytes(other.read_bytes())
    assert "SHA-256" in refused(library.load, "darcy", "base", 16)
    base_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "SHA-256" in refused(library.load, "darcy", "base", 16)
    refused(library.load, "darcy", "pirf", 16)
    assert library.load("poisson", "base", 16).info.pde == "poisson"
    base_file.unlink()
    refused(library.load, "darcy", "base", 16)
    base_file.write_bytes(content)
    assert library.load("darcy", "pirf", 16).info.method == "pirf"


def test_tuned_file_needs_its_parent(library, tmp_path):
    tuned = library.folder / "darcy-16-pirf.safetensors"
    lone = Library(tmp_path / "empty")
    assert "parent" in refused(lone.load_file, tuned)
    rewrite(tuned, parent=file_sha256(library.folder / "poisson-16-base.safetensors"))
    assert "parent" in refused(library.load_file, tuned)


def test_tuned_file_must_continue_a_base(library):
    tuned = library.folder / "darcy-16-pirf.safetensors"
    again = library.folder / "again.safetensors"
    again.write_bytes(tuned.read_bytes())
    rewrite(again, parent=file_sha256(tuned))
    refused(library.load_file, again)


@pytest.mark.parametrize("change", [{"extra": 1}, {"prior.variance": 2}])
def test_tuned_file_with_wrong_tensors(library, change):
    tuned = library.folder / "darcy-16-pirf.safetensors"
    rewrite(tuned, lambda tensors: tensors | {key: torch.zeros(size) for key, size in change.items()})
    refused(library.load_file, tuned)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "{}", '{"models": 3}', '{"models": {}}', '{"models": ""}', '{"models": [3]}',
        '{"models": [{"name": "a"}]}', "\udcff", "[" * 100_000,
    ],
)  # fmt: skip
def test_broken_manifest(library, text):
    (library.folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(library.load, "darcy", "base", 16)


@pytest.mark.parametrize(
    "changes",
    [{"file": 3}, {"file": "../darcy-16-base.safetensors"}, {"sha256": None}, {"size": "9"}, {"resolution": "16"},
     {"method": []}, {"parent": 3}, {"figures": None}],
    ids=str,
)  # fmt: skip
def test_manifest_entry_of_the_wrong_shape(library, changes):
    entries = library.manifest()
    (library.folder / "manifest.json").write_text(json.dumps({"models": [*entries, entries[0] | changes]}))
    assert "manifest.json" in refused(library.load, "darcy", "base", 16)


def test_refusal_leaves_the_loaded_models_alone(library, base_file):
    before = library.load("darcy", "base", 16)
    tuned = library.load("darcy", "pirf", 16)
    x = initial_noise(1, (2, 16, 16), 0)
    outputs = [model.denoiser(x, torch.tensor(0.05)) for model in (before, tuned)]
    bad = library.folder / "bad.safetensors"
    bad.write_bytes(base_file.read_bytes())
    refused(library.load_file, rewrite(bad, lambda t: with_first(t, filled(float("nan")))))
    for model, output in zip((before, tuned), outputs, strict=True):
        assert torch.equal(model.denoiser(x, torch.tensor(0.05)), output)


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


@pytest.mark.parametrize(
    "changes", [{"resolution": 18, "multipliers": (1, 2, 2)}, {"base_channels": 2}, {"base_channels": 7}]
)
def test_network_that_fits_its_file_but_cannot_run(tmp_path, changes):
    """Grids that the levels cannot halve and widths without sines and cosines: refused when read, not when sampled."""
    model = Denoiser(replace(tiny_config("darcy", "isotropic"), **changes))
    info = replace(info_of(model, "darcy"), resolution=model.config.resolution)
    save_checkpoint(tmp_path / "a.safetensors", model, info)
    refused(load_checkpoint, tmp_path / "a.safetensors", no_parent)


def test_loaded_models_compute_in_float32_and_can_in_bfloat16(library):
    loaded = [load_checkpoint(library.folder / f"darcy-16-{method}.safetensors", library.find_parent).denoiser
              for method in ("base", "pirf")]  # fmt: skip
    assert [model.autocast for model in loaded] == [False, False]
    x, sigma = initial_noise(2, (2, 16, 16), 0), torch.tensor(0.05)
    for model in loaded:
        output, model.autocast = model(x, sigma), True
        assert 0 < (output - model(x, sigma)).norm() <= 0.02 * output.norm()
