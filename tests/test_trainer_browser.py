"""The Train tab in a browser: what a visitor does there, and what other visitors do not see."""

import re
import time

import pytest
from browsing import ask, count_of, enter, reload, settled, wait_for_state
from conftest import LANES
from safetensors.torch import load_file

pytestmark = pytest.mark.ui
CHOICES = "#compare label"


def compared(page, method: str) -> str:
    """The row of figures of `method` in the Compare tab, of a run with 3 steps and 1 sample."""
    page.get_by_role("tab", name="Compare").click()
    for name, value in (("steps", 3), ("samples", 1)):
        box = page.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
    for box in page.locator("#controls").get_by_role("checkbox").all():
        wanted = box.evaluate("e => e.closest('label').textContent.trim()") in ("Baseline", method)
        box.set_checked(wanted)
    page.click("#run")
    page.wait_for_function("name => document.querySelector('#figures').innerText.includes(name)", arg=method)
    row = page.locator(".figures tbody tr", has_text=method).inner_text()
    page.get_by_role("tab", name="Train").click()
    return re.sub(r"\s+[\d.]+ s$", "", row.replace(method, "").strip())  # without the time it took


def test_a_run_is_watched_stopped_compared_downloaded_and_uploaded_again(visitor, tmp_path):
    page, other = visitor(), visitor()
    ask(page, updates=1500, name="mine")
    page.click("#train-start")
    page.wait_for_selector(".chart")
    assert page.locator(".chart").count() == 4
    page.wait_for_function("document.querySelector('.plot path.smooth.run0')?.getAttribute('d').split('L').length > 3")
    before = page.locator(".plot path.smooth.run0").first.get_attribute("d").count("L"), count_of(page)
    page.wait_for_selector("#train-stage .preview img")
    page.wait_for_function("n => parseInt(document.querySelector('.tile strong').innerText) > n + 4", arg=before[1])
    assert page.locator(".plot path.smooth.run0").first.get_attribute("d").count("L") > before[0]
    page.hover(".chart:nth-child(2) .plot")
    page.wait_for_selector(".plot.read output")

    page.click("#train-stop")
    began = time.monotonic()
    wait_for_state(page, "Stopped")
    assert time.monotonic() - began < 20  # two seconds where nothing else computes
    page.wait_for_selector("#train-stage .heatmaplayer image", state="attached")
    learned = count_of(page)
    assert 0 < learned < 1500
    assert "--resume" in page.input_value("#command textarea, #command input")
    page.wait_for_function("document.querySelector('#own-model input')?.value.startsWith('mine')")

    own = compared(page, "mine")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the model").click()
    file = tmp_path / download.value.suggested_filename
    assert file.name == "mine.safetensors"
    download.value.save_as(file)
    assert load_file(file)

    assert "mine" not in other.inner_text("body")
    other.get_by_role("tab", name="Compare").click()
    assert "mine" not in other.inner_text("#controls")
    other.get_by_role("tab", name="Train").click()

    renamed = file.rename(tmp_path / "again.safetensors")
    other.set_input_files("#own input[type=file]", renamed)
    other.wait_for_function("document.querySelector('#own-told').innerText.includes('again')")
    assert compared(other, "again") == own

    page.click("#train-resume")
    page.wait_for_function("n => parseInt(document.querySelector('.tile strong').innerText) > n", arg=learned)
    page.click("#train-stop")
    wait_for_state(page, "Stopped")
    page.wait_for_selector("#train-reset:not([disabled])")
    page.click("#train-reset")
    page.wait_for_selector(".empty")


def test_what_cannot_be_done_is_said_and_what_is_there_stays(visitor, tmp_path):
    page = visitor()
    ask(page, updates=10, learning_rate=-1)
    page.wait_for_function("document.querySelector('#estimate').innerText.includes('Learning rate must be')")
    page.click("#train-start")
    page.wait_for_selector("#train-head .problem")
    settled(page)
    assert "Learning rate must be" in page.inner_text("#train-head")
    assert page.locator("#train-start").inner_text() == "Start"
    enter(page, "learning_rate", 0.001)
    enter(page, "updates", 10)
    page.click("#train-start")
    wait_for_state(page, "Complete")
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    page.set_input_files("#own input[type=file]", wrong)
    page.wait_for_selector("#own-told .problem")
    enter(page, "name", "a/b")
    page.click("#train-start")
    page.wait_for_selector("#train-head .problem")
    settled(page)
    assert "name has 1 to 40 letters" in page.inner_text("#train-head")
    assert page.locator("#train-stage .heatmaplayer image").count() > 0
    assert page.locator("#train-reset").is_enabled()
    assert "wrong.safetensors" in page.inner_text("#own-told")
    assert page.locator(".chart").count() == 4


@pytest.mark.parametrize("width", [390, 1024])
def test_the_tab_fits_the_page(visitor, width):
    page = visitor(width, "?__theme=dark")
    ask(page, updates=6)
    page.click("#train-start")
    wait_for_state(page, "Complete")
    page.wait_for_selector("#train-stage .heatmaplayer image", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sticking = """() => [...document.querySelectorAll('.tile, .chart, #train button')].filter(
        (e) => !e.closest('.stage') && e.getBoundingClientRect().right > window.innerWidth + 1).length"""
    assert page.evaluate(sticking) == 0


def test_closing_the_page_ends_the_run(visitor, tiny_server):
    places = LANES[tiny_server].training._places
    page = visitor()
    ask(page, updates=1500, validate_every=500)
    page.click("#train-start")
    page.wait_for_selector(".chart")
    assert len(places) == 1
    page.close()
    deadline = time.monotonic() + 60
    while places and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not places


def test_a_page_that_is_loaded_again_has_its_run_and_its_models(visitor):
    page = visitor()
    ask(page, updates=1500, name="kept")
    page.click("#train-start")
    page.wait_for_function("parseInt(document.querySelector('.tile strong')?.innerText) > 3")
    page.reload(wait_until="commit")
    reload(page)  # while the first one is still on its way
    page.get_by_role("tab", name="Train").click()
    wait_for_state(page, "Stopped")
    visitor.errors[:] = [text for text in visitor.errors if "abort" not in text and "errored out" not in text]
    learned = count_of(page)
    assert learned > 3
    page.wait_for_function("document.querySelector('#own-model input')?.value.startsWith('kept')")
    page.locator("#advanced button").first.click()
    for name, value in {"updates": "1500", "pool": "8", "pool_steps": "4", "validate_every": "5"}.items():
        shown = f"document.querySelector('#train-{name} input, #train-{name} textarea')?.value"
        page.wait_for_function(f"{shown} === '{value}'")
    page.wait_for_function("!document.querySelector('#presets label.selected')")
    page.wait_for_function("document.querySelector('#estimate').innerText.includes('for 1500 updates')")
    page.wait_for_selector("#train-stage .heatmaplayer image", state="attached")
    page.click("#train-resume")
    page.wait_for_function("n => parseInt(document.querySelector('.tile strong').innerText) > n", arg=learned)
    page.click("#train-stop")
    wait_for_state(page, "Stopped")


def test_a_model_added_in_another_tab_is_there_to_start_from(visitor, tiny_folder):
    page = visitor()
    page.get_by_role("tab", name="Models").click()
    page.set_input_files("#models-tools input[type=file]", tiny_folder / "darcy-16-pirf.safetensors")
    page.wait_for_function("document.querySelector('#models-status').innerText.includes('one of your models now')")
    page.get_by_role("tab", name="Train").click()
    page.wait_for_function("document.querySelector('#own-model input')?.value === 'darcy-16-pirf'")


def test_who_has_to_wait_is_told_where_they_stand_and_two_runs_are_laid_over_each_other(visitor, tiny_server):
    page = visitor()
    ask(page, updates=6, name="first")
    page.click("#train-start")
    wait_for_state(page, "Complete")

    training = LANES[tiny_server].training
    first, *others = [training.join() for _ in range(training.capacity)]
    try:
        ask(page, updates=8, name="second")
        page.click("#train-start")
        page.wait_for_function("document.querySelector('#train-head').innerText.includes('one other is ahead of you')")
        first.leave()
        wait_for_state(page, "Complete")
    finally:
        for place in (first, *others):
            place.leave()

    page.wait_for_selector("#overlay input")
    assert page.locator(".plot path.run1").count() == 0
    page.click("#overlay input")
    page.get_by_role("option", name="first").click()
    page.wait_for_selector(".plot path.smooth.run1", state="attached")
    assert "first" in page.inner_text("#train-curves .keys")
