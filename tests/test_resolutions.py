"""Which grid is offered and sampled on."""

from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from tiny import info_of, tiny_denoiser

from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.evaluation.comparison import available, check_settings, compare, last
from pirf_app.models import library as resolutions
from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.models.library import Library, grid, grids
from pirf_app.pdes import get_pde
from pirf_app.ui.compare.links import from_query, to_query
from pirf_app.ui.compare.tab import CompareTab
from pirf_app.ui.serving.lanes import Lanes
from pirf_app.ui.serving.server import Server
from pirf_app.ui.serving.visitors import Visitors


@pytest.fixture
def library(tmp_path, monkeypatch) -> Library:
    """Darcy at 16x16 (the default here) and, as where there is a GPU, at 32x32; Poisson at 16x16 only."""
    monkeypatch.setattr(resolutions, "GPU_RESOLUTION", 32)
    for pde, size in (("darcy", 16), ("darcy", 32), ("poisson", 16)):
        monkeypatch.setattr(get_pde(pde), "default_resolution", 16, raising=False)
        model = tiny_denoiser(pde, resolution=size)
        save_checkpoint(tmp_path / f"{pde}-{size}-base.safetensors", model, info_of(model, pde))
    library = Library(tmp_path)
    library.write_manifest()
    return library


@pytest.mark.parametrize(("gpu", "darcy"), [(False, 16), (True, 32)])
def test_fine_resolution_where_a_gpu_samples(library, monkeypatch, gpu, darcy):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert grids(library, "darcy") == [16, 32]
    assert (grid(library, "darcy"), grid(library, "poisson"), grid(library, "burgers")) == (darcy, 16, 64)
    assert available(library, "darcy") == ["base", *GUIDANCE]
    assert available(library, "burgers") == []


def test_resolution_that_is_asked_for(library):
    for asked, size in ((None, 16), (16, 16), (32, 32)):
        settings = check_settings(library, "darcy", ["base"], 2, 1, 0, resolution=asked)
        assert settings.resolution == asked
        result = last(compare(library, "darcy", ["base"], 2, 1, 0, resolution=asked))
        assert result.results[0].fields.shape[-1] == result.results[0].row["resolution"] == size


@pytest.mark.parametrize("asked", [64, 7, 10**6, "32", 32.5, True])
def test_resolution_that_there_is_not(library, asked):
    with pytest.raises(InputError, match=r"^[^\n]{,150}$"):
        check_settings(library, "darcy", ["base"], 2, 1, 0, resolution=asked)


def test_the_page_offers_resolutions_where_there_are_several(library, monkeypatch):
    with gr.Blocks():
        tab = CompareTab(Server(library, Visitors(library), Lanes()))
    controls = tab.controls
    visitor = SimpleNamespace(session_hash="a")
    assert controls.grid_choices("darcy") == {
        "choices": [("16 × 16", 16), ("32 × 32", 32)],
        "value": 16,
        "visible": True,
    }
    assert controls.grid_choices("darcy", 32)["value"] == 32
    assert not controls.grid_choices("poisson", 32)["visible"]
    sizes, methods = controls.on_return("darcy", ["base"], 32, visitor)
    assert sizes["value"] == 32
    assert methods["value"] == ["base"]
    ticket = tab.tickets.begin("", "run")[tab.tickets.latest]
    events = list(tab.on_run("darcy", 32, ["base"], 2, 1, "0", None, None, None, 0, 1, "field", ticket, visitor))
    shown, result = events[-1][tab.result]
    assert shown == ticket
    assert result.results[0].fields.shape[-1] == 32
    query = to_query(result.settings)
    assert "resolution=32" in query
    read = from_query(library, dict(part.split("=") for part in query.split("&")), controls.default)
    assert read == result.settings
    with pytest.raises(InputError, match="16x16, 32x32"):
        from_query(library, {"pde": "darcy", "resolution": "64"}, controls.default)
