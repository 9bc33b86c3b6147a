"""The Models tab in a browser, with a Hub on loopback."""

import json

import huggingface_hub
import pytest
from browsing import reload
from hub_server import HubServer
from huggingface_hub import constants
from tiny import info_of, tiny_denoiser

from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.models.library import Library

pytestmark = pytest.mark.ui


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub with one repository, lab/darcy, of one small model that nobody else has."""
    model = tiny_denoiser("darcy", seed=5)
    folder = tmp_path / "repository"
    folder.mkdir()
    save_checkpoint(folder / "darcy-16-base.safetensors", model, info_of(model, "darcy"))
    Library(folder).write_manifest()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        huggingface_hub.utils._http.close_session()
        server.add("lab/darcy", {path.name: path.read_bytes() for path in folder.iterdir()})
        server.file = folder / "darcy-16-base.safetensors"
        yield server


def models_tab(page):
    page.get_by_role("tab", name="Models").click()
    page.wait_for_selector("#models-table table")
    return page


def ask_for(page, text: str) -> str:
    """Fetches a repository; the words that come back."""
    page.fill("#models-repo input, #models-repo textarea", text)
    page.click("#models-fetch")
    page.wait_for_selector("#models-status .problem, #models-status .caption")
    return page.inner_text("#models-status")


def rows(page) -> int:
    return page.locator("#models-table tbody tr").count()


def test_every_model_is_listed_with_figures_and_hash(visit, library):
    page = models_tab(visit())
    entries = library.manifest()
    assert rows(page) == len(entries)
    text = page.inner_text("#models-table")
    for entry in entries:
        assert entry["sha256"][:12] in text
        assert entry["name"] in text


@pytest.mark.parametrize("width", [1440, 390])
def test_the_tab_fits_the_page(visit, width):
    page = models_tab(visit(width=width))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_repository_is_fetched_for_one_visitor_and_its_model_removed(visit, hub, library):
    page, count = models_tab(visit()), len(library.manifest())
    assert "1 model added from lab/darcy@" in ask_for(page, "lab/darcy")
    page.wait_for_function("n => document.querySelectorAll('#models-table tbody tr').length === n", arg=count + 1)
    assert all(authorization is None for *_, authorization in hub.requests)
    other = models_tab(visit())
    assert rows(other) == count
    page.click("#models-remove")
    page.wait_for_function("n => document.querySelectorAll('#models-table tbody tr').length === n", arg=count)


def test_what_cannot_be_fetched_is_said_and_the_table_stays(visit, hub, library):
    page = models_tab(visit())
    assert "OWNER/NAME" in ask_for(page, "nonsense")
    reload(page)
    models_tab(page)
    assert "no such public repository" in ask_for(page, "lab/nothing")
    assert rows(page) == len(library.manifest())


def test_a_file_is_taken_in_or_refused_with_a_reason(visit, hub, library, tmp_path):
    page = models_tab(visit())
    page.set_input_files("#models-tools input[type=file]", hub.file)
    page.wait_for_function("document.querySelector('#models-status').innerText.includes('one of your models now')")
    assert rows(page) == len(library.manifest()) + 1
    broken = tmp_path / "broken.safetensors"
    broken.write_text(json.dumps({"no": "model"}))
    page.set_input_files("#models-tools input[type=file]", broken)
    page.wait_for_selector("#models-status .problem")
    assert "broken.safetensors" in page.inner_text("#models-status")
