"""A folder of checkpoints: its manifest, what tuned models continue, and files that are not what they were."""

import json

import pytest
import torch
from safetensors import safe_open
from spoiled import filled, refused, rewrite, with_first
from tiny import HANDOVER, tuned_from

from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.diffusion.sampler import initial_noise
from pirf_app.hub.collection import Collection
from pirf_app.models.checkpoint import CheckpointError, changed_tensors, file_sha256, load_checkpoint
from pirf_app.models.library import Library
from pirf_app.ui.serving.visitors import Visitors


@pytest.fixture
def library(library_copy) -> Library:
    """To spoil, in place of the bundled checkpoints."""
    return library_copy


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
    assert library.methods("darcy") == ["base", "pirf", *GUIDANCE]
    assert library.methods("burgers") == []
    assert library.resolve("darcy", "pirf", 16).info.method == "pirf"
    assert library.resolve("darcy", str(base_file)).info.method == "base"
    assert library.load("darcy", "base", 16) is library.load("darcy", "base", 16)
    assert Library(library.folder / "elsewhere").manifest() == []


@pytest.mark.parametrize(
    "over", [lambda library: library, Collection, lambda library: Visitors(library).of("a").models]
)
def test_libraries_over_a_library_answer_as_it_does(library, over):
    found, tuned = over(library), library.folder / "darcy-16-pirf.safetensors"
    assert found.manifest() == library.manifest()
    assert found.methods("darcy", 16) == library.methods("darcy", 16)
    assert found.find("darcy", "pirf", 16)["file"] == tuned.name
    assert found.load("darcy", "cocogen", 16).info.method == "cocogen"
    checkpoint = found.load_file(tuned)
    entry, path = found.parent_of(tuned, checkpoint.info.parent)
    assert (entry["name"], path) == ("darcy-16-base", library.folder / "darcy-16-base.safetensors")
    assert found.find_parent(checkpoint.info.parent).info.method == "base"
    (library.folder / "manifest.json").unlink()
    assert "has no manifest" in refused(found.find, "darcy", "base", 16, kind=InputError)


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


def test_tuned_file_needs_its_own_parent(library):
    tuned = library.folder / "darcy-16-pirf.safetensors"
    rewrite(tuned, parent=file_sha256(library.folder / "poisson-16-base.safetensors"))
    assert "parent" in refused(library.load_file, tuned)


def test_a_tuned_file_finds_its_parent_here_or_in_the_manifest_beside_it(library, tmp_path):
    (tmp_path / "empty").mkdir()
    tuned, empty = library.folder / "darcy-16-pirf.safetensors", Library(tmp_path / "empty")
    expected = library.load("darcy", "pirf", 16)
    found = empty.resolve("darcy", str(tuned))
    assert found.sha256 == expected.sha256
    x = initial_noise(1, (2, 16, 16), 0)
    for level in (0.03, 0.2):
        assert torch.equal(found.denoiser(x, torch.tensor(level)), expected.denoiser(x, torch.tensor(level)))
    alone = empty.folder / tuned.name
    alone.write_bytes(tuned.read_bytes())
    assert "parent" in refused(empty.load_file, alone)
    assert library.load_file(alone).sha256 == expected.sha256


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


def test_loaded_models_compute_in_float32_and_can_in_bfloat16(library):
    loaded = [load_checkpoint(library.folder / f"darcy-16-{method}.safetensors", library.find_parent).denoiser
              for method in ("base", "pirf")]  # fmt: skip
    assert [model.autocast for model in loaded] == [False, False]
    x, sigma = initial_noise(2, (2, 16, 16), 0), torch.tensor(0.05)
    for model in loaded:
        output, model.autocast = model(x, sigma), True
        assert 0 < (output - model(x, sigma)).norm() <= 0.02 * output.norm()
