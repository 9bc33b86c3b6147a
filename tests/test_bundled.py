"""Every checkpoint that comes with the app."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pirf_app.diffusion.sampler import LEAST_STEPS
from pirf_app.evaluation.comparison import compare, last
from pirf_app.evaluation.figures import draw_fields
from pirf_app.evaluation.statistics import FOLDER, Statistics
from pirf_app.models.checkpoint import file_sha256
from pirf_app.models.library import BUNDLED, Library
from pirf_app.pdes import get_pde, pde_names

ENTRIES = Library().manifest()
pytestmark = pytest.mark.skipif(not ENTRIES, reason="no checkpoints are bundled yet")
every_entry = pytest.mark.parametrize("entry", ENTRIES or [{}], ids=lambda e: e.get("name", "none"))
LIMIT = 10_000_000


def test_manifest_and_folder_agree():
    assert {e["file"] for e in ENTRIES} == {p.name for p in BUNDLED.glob("*.safetensors")}
    assert len({e["name"] for e in ENTRIES}) == len(ENTRIES)
    assert all(e["parent"] is None or e["parent"] in {o["sha256"] for o in ENTRIES} for e in ENTRIES)


@every_entry
def test_file_is_what_the_manifest_says(entry):
    path = BUNDLED / entry["file"]
    assert path.stat().st_size == entry["size"] < LIMIT
    assert file_sha256(path) == entry["sha256"]
    assert entry["name"] == path.stem == f"{entry['pde']}-{entry['resolution']}-{entry['method']}"


@every_entry
def test_samples_are_finite_and_near_the_data(entry):
    pde = get_pde(entry["pde"])
    checkpoint = Library().load(entry["pde"], entry["method"], entry["resolution"])
    fields, nfe = draw_fields(checkpoint, 5, 2, 0)
    assert nfe == checkpoint.info.schedule.with_steps(5).evaluations(5)
    assert fields.shape == (2, len(pde.channels), entry["resolution"], entry["resolution"])
    assert fields.isfinite().all()
    spread = fields.std((0, 2, 3)) / (2 * torch.tensor([channel.std for channel in pde.channels]))
    assert spread.min() > 0.1
    assert spread.max() < 1.5
    assert pde.solve_error(fields).max() < 1


@every_entry
def test_metadata_names_the_recipe_and_figures(entry):
    info = Library().load(entry["pde"], entry["method"], entry["resolution"]).info
    assert info.recipe
    assert "seed" in json.dumps(info.recipe)
    assert entry["figures"]["residual_rms"] > 0
    assert entry["figures"]["solve_error_median"] > 0


@every_entry
def test_model_card_says_what_it_is(entry):
    card = (BUNDLED / f"{entry['name']}.md").read_text()
    assert entry["sha256"] in card
    assert all(f"## {part}" in card for part in ("Figures", "Recipe", "Limits"))


@pytest.mark.parametrize("pde", sorted({e["pde"] for e in ENTRIES if e["method"] != "base"}) or ["none"])
def test_methods_draw_the_same_samples_up_to_their_tuning(pde):
    """From the same noise: what a method tunes is the end of the trajectory, not which sample is drawn."""
    library, samples = Library(), {}
    for method in library.methods(pde):
        fields, _ = draw_fields(library.load(pde, method), 10, 2, 0)
        samples[method] = get_pde(pde).normalise(fields)
    base = samples.pop("base")
    for fields in samples.values():
        assert not torch.equal(fields, base)
        assert (fields - base).norm() < 0.5 * base.norm()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_kept_statistics_are_those_of_the_data(path):
    pde = get_pde(path.stem.rpartition("-")[0])
    kept = Statistics.load(path)
    assert kept.n >= 1000
    assert kept.std == pytest.approx([channel.std for channel in pde.channels], rel=0.1)
    assert all(np.isfinite(part).all() for part in (kept.spectrum, kept.quantiles, kept.distance))
    assert (kept.spectrum > 0).all()


def test_loading_does_not_load_torchs_compiler(request):
    """Arithmetic on "meta" would, and takes seconds of every start of the app and of every command."""
    code = (
        "import sys; from pirf_app.models.library import Library;"
        "from pirf_app.methods.presets import trainable_parameters;"
        "library = Library();"
        "loaded = [library.load(e['pde'], e['method'], e['resolution']) for e in library.manifest()];"
        "assert trainable_parameters(loaded[0]); print(*{'sympy', 'torch._dynamo'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=request.config.rootpath)
    assert (found.stdout.strip(), found.returncode) == ("", 0), found.stderr


@pytest.mark.parametrize("name", pde_names())
def test_the_least_number_of_steps_gives_samples_and_no_smaller_one_does(library, name):
    schedule = library.load(name, "base").info.schedule
    for steps in range(LEAST_STEPS, schedule.least_steps + 1):
        found = last(compare(library, name, ["base"], steps, 4, 0))
        assert any("not converged" in note for note in found.notes) == (steps < schedule.least_steps)
