"""The Check tab in a browser: a file of one's own, by keyboard and on a narrow page; what is wrong is said."""

import numpy as np
import pytest
from browsing import settled
from pde_data import data

from pirf_app.pdes import get_pde

pytestmark = [pytest.mark.ui, pytest.mark.usefixtures("quick_data")]
PANELS = "#check-stage .heatmaplayer image"


@pytest.fixture
def opened(visitor):
    def open_tab(equation: str, width: int = 1440):
        page = visitor(width)
        page.get_by_role("tab", name="Check").click()
        page.wait_for_selector("#check-run")
        choose(page, "pde", equation)
        return page

    return open_tab


def give(page, path) -> None:
    """Another file in the place of the one there is."""
    settled(page)
    clear = page.locator("#check-file").get_by_role("button", name="Clear")
    if clear.count():
        clear.click()
    page.set_input_files("#check-file input[type=file]", str(path))
    page.wait_for_function("name => document.querySelector('#check-file').innerText.includes(name)", arg=path.suffix)
    settled(page)


def check(page) -> None:
    page.locator("#check-run").focus()
    page.keyboard.press("Enter")


def choose(page, name: str, option: str) -> None:
    page.click(f"#check-{name} input")
    page.get_by_role("option", name=option).click()
    settled(page)


def test_a_file_is_measured_by_keyboard_and_a_bad_one_costs_nothing(opened, tmp_path):
    fields = data("darcy", 3, 16)
    fields[1, 1, 2, 4] = np.inf
    np.savez(tmp_path / "mine.npz", fields=fields.numpy())
    (tmp_path / "text.txt").write_text("1,2,3")
    page = opened("Darcy flow")
    assert "up to 256 MB" in page.inner_text("#check-file")
    check(page)
    page.wait_for_selector("#check-status .problem")
    assert "Choose a file" in page.inner_text("#check-status")
    give(page, tmp_path / "mine.npz")
    check(page)
    page.wait_for_selector("#check-sentence p")
    page.wait_for_function(f"document.querySelectorAll('{PANELS}').length === 5")
    said = page.inner_text("#check-sentence")
    assert said.startswith("2 fields of Darcy flow: residual RMS")
    assert "Sample 1 is left out: pressure u is not a finite number at row 2, column 4." in said
    assert "mine.npz" in page.inner_text("#check-figures .caption")
    assert page.locator("#check-figures tbody tr").count() == 10
    assert page.locator("#check-samples tbody tr").count() == 3
    titles = page.inner_text("#check-stage")
    assert all(text in titles for text in ("Sample 0", "log₁₀ |residual|", "solver's u", "u − solver's u"))
    page.locator("#check-sample input").focus()
    for key in ("ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('#check-stage').innerText.includes('Sample 2')")
    give(page, tmp_path / "text.txt")
    page.wait_for_selector("#check-status .problem")
    assert "text.txt is not a file of fields: read are .npz" in page.inner_text("#check-status")
    check(page)
    settled(page)
    assert "text.txt is not a file of fields" in page.inner_text("#check-status")
    assert page.inner_text("#check-sentence") == said
    assert page.locator(PANELS).count() == 5


def test_the_file_s_arrays_are_offered_where_it_does_not_tell_what_they_hold(opened, tmp_path):
    pde, fields = get_pde("darcy"), data("darcy", 2, 16)
    seen = pde.normalise(fields).numpy()
    np.savez(tmp_path / "mine.npz", first=seen[:, 0], second=seen[:, 1], third=seen[:, 1])
    page = opened("Darcy flow")
    give(page, tmp_path / "mine.npz")
    page.wait_for_selector("#check-name-0 input")
    assert "first [2, 16, 16], second [2, 16, 16]" in page.inner_text("#check-status")
    assert "permeability a" in page.inner_text("#check-name-0")
    check(page)
    page.wait_for_selector("#check-status .problem")
    choose(page, "name-0", "first")
    choose(page, "name-1", "second")
    check(page)
    page.wait_for_function("document.querySelector('#check-sentence').innerText.includes('another scaling')")
    assert not page.locator("#check-offset").is_visible()
    choose(page, "scaling", "another offset and scale")
    for name, of in (("offset", lambda c: c.mean), ("scale", lambda c: 2 * c.std)):
        page.locator(f"#check-{name} input, #check-{name} textarea").fill(", ".join(str(of(c)) for c in pde.channels))
    check(page)
    page.wait_for_function("document.querySelector('#check-sentence').innerText.includes('2 fields of Darcy flow')")
    choose(page, "pde", "Burgers")  # of one channel
    page.wait_for_selector("#check-name-1 input", state="hidden")
    assert not page.locator("#check-whole").is_visible()
    assert page.locator("#check-name-0").is_visible()


def test_frames_are_looked_at_one_by_one_on_a_narrow_page(opened, tmp_path):
    np.savez(tmp_path / "flow.npz", fields=data("kolmogorov", 2, 16).numpy())
    page = opened("Kolmogorov flow", 390)
    page.wait_for_selector("#check-reynolds")
    give(page, tmp_path / "flow.npz")
    check(page)
    page.wait_for_function(f"document.querySelectorAll('{PANELS}').length === 4")
    assert "vorticity at frame 3" in page.inner_text("#check-stage")
    choose(page, "view", "change from frame 1 to 2")
    page.wait_for_function("document.querySelector('#check-stage').innerText.includes('change w2 − w1')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in ("check-run", "check-figures", "check-stage", "check-samples"):
        right = page.evaluate("id => document.querySelector('#' + id).getBoundingClientRect().right", part)
        assert right <= 390
    cells = page.eval_on_selector_all("#check-figures td", "all => all.map(e => e.getBoundingClientRect().right)")
    assert max(cells) <= 390  # both columns are on the page
