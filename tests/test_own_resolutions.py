"""A visitor's model on a grid that no other model has: compared, linked, listed, and trained from."""

from pathlib import Path

import pytest
from browsing import ask, wait_for_state
from gradio_client import Client
from gradio_client.exceptions import AppError
from test_trainer_api import QUICK
from tiny import info_of, tiny_denoiser

from pirf_app.common.checks import InputError
from pirf_app.evaluation.comparison import check_settings, compare, last
from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.models.library import Library, grid, grids
from pirf_app.ui.serving.offered import begin_choices, beginning, equations, least_steps, recommended
from pirf_app.ui.serving.visitors import Visitors


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A network for Darcy at 16x16, with a noise schedule of its own."""
    path, model = tmp_path_factory.mktemp("small") / "small.safetensors", tiny_denoiser("darcy", seed=7)
    save_checkpoint(path, model, info_of(model, "darcy"))
    return path


@pytest.fixture
def visitors(library) -> Visitors:
    return Visitors(library)


def test_a_visitor_s_resolutions_count_for_them_alone(visitors, small):
    mine, other = visitors.of("a").models, visitors.of("b").models
    model = mine.add(small)
    assert grids(mine, "darcy") == [16, *grids(other, "darcy")]
    assert grid(mine, "darcy") == grid(other, "darcy") == 64
    settings = check_settings(mine, "darcy", [model.method], 2, 1, 0, resolution=16)
    assert last(compare(mine, "darcy", [model.method], 2, 1, 0, resolution=16)).results[0].fields.shape[-1] == 16
    assert settings.resolution == 16
    assert recommended(mine, "darcy", model.method, 16) == model.info.schedule
    for library, asked in ((mine, None), (mine, 64)):
        with pytest.raises(InputError, match=r"no 'my:small' checkpoint for darcy at 64x64 \(there is at 16x16\)"):
            check_settings(library, "darcy", [model.method], 2, 1, 0, resolution=asked)
    with pytest.raises(InputError, match="available are 64x64"):
        check_settings(other, "darcy", ["base"], 2, 1, 0, resolution=16)
    assert begin_choices(mine, "darcy")["choices"] == [("Baseline", "base"), ("small (16 × 16)", "my:small")]
    assert beginning(mine, "darcy", "my:small").info.resolution == 16
    with pytest.raises(InputError, match="cannot start from"):
        beginning(other, "darcy", "my:small")


def test_the_least_number_of_steps_is_that_of_the_chosen_models(visitors, small):
    mine = visitors.of("a").models
    model = mine.add(small)  # recommends the multistep solver, the bundled models of Darcy Heun's
    assert least_steps(mine, "darcy", [model.method], 16) == 2
    assert least_steps(mine, "darcy", ["base", "pirf"]) == 5
    assert least_steps(mine, "darcy", ["cocogen"]) == 5
    assert least_steps(mine, "poisson", ["base", "pirf"]) == 2
    assert least_steps(mine, "darcy", [model.method, "base", "gone"], 64) == 5
    assert least_steps(mine, "darcy", [], 999) == 2


def test_a_server_without_models_takes_a_visitor_s(tmp_path, small):
    mine = Visitors(Library(tmp_path)).of("a").models
    mine.add(small)
    assert grid(mine, "darcy") == 16
    assert equations(mine) == [("Darcy flow", "darcy")]
    assert last(compare(mine, "darcy", ["my:small"], 2, 1, 0)).results[0].fields.shape[-1] == 16


@pytest.mark.ui
def test_a_small_network_is_uploaded_compared_and_trained_from(visit, server, small):
    page = visit()
    page.get_by_role("tab", name="Train").click()
    page.wait_for_selector("#estimate strong")
    page.set_input_files("#own input[type=file]", small)
    said = "document.querySelector('#own-told').innerText.includes('ready in the Compare tab: choose 16 × 16')"
    page.wait_for_function(said)

    page.get_by_role("tab", name="Compare").click()
    page.locator("#resolution").get_by_label("16 × 16").check()
    page.wait_for_function("document.querySelector('#controls').innerText.includes('small')")
    assert page.locator("#compare-methods").get_by_label("small").is_checked()
    assert page.locator("#compare-methods").get_by_label("PIRF").count() == 0
    page.locator("#steps input[type=number]").fill("4")
    page.locator("#steps input[type=number]").press("Tab")
    page.click("#run")
    page.wait_for_function("document.querySelector('#caption').innerText.includes('4 steps')")
    assert "16 × 16" in page.inner_text("#caption")
    assert "small" in page.inner_text("#figures")
    page.wait_for_function("document.querySelector('#link textarea, #link input').value.includes('resolution=16')")

    page.get_by_role("tab", name="Models").click()
    page.wait_for_function("document.querySelector('#models-table tr.own')?.innerText.includes('16²')")

    page.get_by_role("tab", name="Train").click()
    before = page.inner_text("#estimate")
    page.click("#train-begin input")
    page.get_by_role("option", name="small (16 × 16)").click()
    page.wait_for_function("before => document.querySelector('#estimate').innerText !== before", arg=before)
    page.wait_for_function("!document.querySelector('#train-trainable input').value.includes(' M)')")
    ask(page, updates=4, name="further")
    page.click("#train-start")
    wait_for_state(page, "Complete")
    assert "Darcy flow at 16 × 16" in page.inner_text(".run-head")
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_function("document.querySelector('#compare-methods').innerText.includes('further')")
    page.locator("#resolution").get_by_label("64 × 64").check()
    page.wait_for_function("!document.querySelector('#compare-methods').innerText.includes('small')")

    client = Client(server, verbose=False)
    client.session_hash = page.evaluate("window.pirfSession")
    answer = client.predict("darcy", ["my:small", "my:further"], 3, 1, 0, resolution=16, api_name="/compare")
    assert [(row["method"], row["resolution"]) for row in answer["rows"]] == [("my:small", 16), ("my:further", 16)]
    with pytest.raises(AppError, match="at 64x64 .there is at 16x16."):
        client.predict("darcy", ["my:small"], 3, 1, 0, api_name="/compare")
    result = client.predict(**QUICK, updates=2, start="my:small", name="more", api_name="/finetune")
    assert result["phase"] == "complete"
    answer = client.predict("darcy", [result["model"]], 3, 1, 0, resolution=16, api_name="/compare")
    assert answer["rows"][0]["resolution"] == 16
