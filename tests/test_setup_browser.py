"""The controls of the Train tab in a browser: presets, what is typed, methods."""

import re
import threading
from dataclasses import replace

import pytest
from browsing import ask, count_of, enter, settled, wait_for_state

from pirf_app.ui.serving import gpu_training
from pirf_app.ui.train import tab as train

pytestmark = pytest.mark.ui

UNPRESET = 4  # updates; a preset has 5 at least, however slow the machine


def test_a_preset_is_fitted_again_when_start_is_pressed(visitor, monkeypatch):
    page, measured = visitor(), gpu_training.speed
    before = int(page.input_value("#train-updates input"))

    def slower(*arguments):
        for found in measured(*arguments):
            yield found and replace(found, update=200 * found.update)

    monkeypatch.setattr(gpu_training, "speed", slower)
    monkeypatch.setattr(train, "JUST_NOW", 0)
    page.click("#train-start")
    page.wait_for_selector(".tile strong")
    updates = int(re.search(r"Update\s+\d+ of (\d+)", page.inner_text(".tiles")).group(1))
    assert 5 <= updates < before / 3
    assert int(page.input_value("#train-updates input")) == updates
    assert page.locator("#presets label.selected").inner_text() == "2 minutes"
    page.click("#train-stop")
    wait_for_state(page, "Stopped")


def test_what_is_entered_counts_even_if_start_is_pressed_at_once(visitor):
    page = visitor()
    ask(page, updates=UNPRESET)
    page.click("#presets label:has-text('30 seconds')")
    page.wait_for_function(f"document.querySelector('#train-updates input').value !== '{UNPRESET}'")
    page.locator("#train-updates input").fill("3")
    page.click("#train-start")
    wait_for_state(page, "Complete")
    assert count_of(page) == 3
    assert page.locator("#presets label.selected").count() == 0


@pytest.mark.parametrize("name", ["updates", "pool_steps"])
def test_what_is_deleted_counts_as_entered(visitor, name):
    page = visitor()
    page.locator("#advanced button").first.click()
    page.wait_for_selector("#presets label.selected")
    page.locator(f"#train-{name} input").press("End")
    page.keyboard.press("Backspace")
    page.wait_for_selector("#presets label.selected", state="detached")


def test_what_is_typed_while_the_machine_is_measured_stays(visitor, monkeypatch):
    page, measured, go, done = visitor(), gpu_training.speed, threading.Event(), []

    def speed(*arguments):
        go.wait(60)
        yield from measured(*arguments)
        done.append(arguments)

    monkeypatch.setattr(gpu_training, "speed", speed)
    page.click("#train-trainable input")
    page.get_by_role("option", name="Last layer").click()
    with page.expect_request("**/queue/join*"):
        page.click("#presets label:has-text('30 seconds')")
    enter(page, "updates", UNPRESET)
    go.set()
    page.wait_for_function(f"document.querySelector('#estimate').innerText.includes('for {UNPRESET} updates')")
    settled(page)  # the preset's recipe has come, and was left out
    assert len(done) == 1
    assert page.input_value("#train-updates input") == str(UNPRESET)
    assert f"for {UNPRESET} updates" in page.inner_text("#estimate")
    page.click("#presets label:has-text('30 seconds')")
    page.wait_for_function(f"document.querySelector('#train-updates input').value !== '{UNPRESET}'")


def test_a_number_that_is_left_out_is_asked_for_and_what_is_none_is_refused(visitor):
    page = visitor()
    ask(page, updates=6, anchor="")
    for method in ("PIDM", "PIRF"):  # its field goes and comes back
        page.click("#train-method input")
        page.get_by_role("option", name=method, exact=True).click()
        page.wait_for_function("shown => !!document.querySelector('#train-anchor') === shown", arg=method == "PIRF")
    assert page.input_value("#train-anchor input") == ""
    page.wait_for_function("document.querySelector('#estimate').innerText.includes('Anchor weight is empty')")
    enter(page, "anchor", "0.5")
    for name, entered, words in (
        ("updates", "ten", "Updates must be a whole number from 1 to 1000000, not 'ten'"),
        ("learning_rate", "fast", "Learning rate must be a finite number above 0, not 'fast'"),
        ("drift", "1e999", "Drift weight must be a finite number of at least 0, not inf"),
    ):
        before = page.input_value(f"#train-{name} input")
        enter(page, name, entered)
        page.click("#train-start")
        said = "words => document.querySelector('#train-head .problem')?.innerText.includes(words)"
        page.wait_for_function(said, arg=words)
        assert page.locator("#train-head .problem").count() == 1
        enter(page, name, before)
    page.click("#train-start")
    wait_for_state(page, "Complete")
    assert "--anchor 0.5" in page.input_value("#command textarea, #command input")


def test_another_method_shows_its_own_settings(visitor):
    page = visitor()
    page.click("#train-method input")
    page.get_by_role("option", name="PIDM").click()
    page.wait_for_selector("#advanced button")
    page.locator("#advanced button").first.click()
    page.wait_for_selector("#train-residual_weight")
    for name in ("anchor", "hold", "error_weight"):
        assert not page.locator(f"#train-{name}").is_visible()
    assert float(page.input_value("#train-drift input")) == 0
    ask(page, updates=6)
    page.click("#train-start")
    wait_for_state(page, "Complete")
    page.wait_for_function("document.querySelector('#own-model input')?.value.includes('-pidm')")
    assert "--method pidm" in page.input_value("#command textarea, #command input")
