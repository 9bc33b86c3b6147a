"""The page in a browser: what a visitor does, and what must not happen."""

import pytest
from browsing import PANELS, settled
from test_app_api import OFFERED

from pirf_app.pdes import get_pde

pytestmark = pytest.mark.ui


def choose(page, steps: int, n: int, seed: str) -> None:
    for name, value in (("steps", steps), ("samples", n)):
        box = page.locator(f"#{name} input[type=number]")
        box.fill(str(value))
        box.press("Tab")
    page.locator("#seed input, #seed textarea").fill(seed)


def run(page) -> None:
    """Presses Run and waits for the result: another caption, and no preview any more."""
    before = page.text_content("#caption .caption")  # it is there, but hidden, while the sampler runs
    page.click("#run")
    page.wait_for_function("before => document.querySelector('#caption .caption').textContent !== before", arg=before)
    page.wait_for_selector(".preview", state="detached")
    page.wait_for_selector(PANELS, state="attached")


def caption(page) -> str:
    return page.inner_text("#caption")


def test_opens_on_a_real_comparison_and_says_that_it_is_precomputed(visit):
    page = visit()
    assert page.locator(PANELS).count() == 10
    assert "precomputed" in caption(page).lower()
    assert "Darcy flow · 5 steps · 2 samples · seed 0" in caption(page)
    assert "forward-solve error" in page.inner_text("#sentence")
    assert page.locator(".figures tbody tr").count() == 3


def test_run_shows_a_preview_and_then_the_result(visit):
    page = visit()
    choose(page, 14, 2, "42")
    page.click("#run")
    page.wait_for_function(  # in one look: the preview may be gone at the next
        """document.querySelectorAll('.preview img').length === 10
        && /step \\d+ of 14/.test(document.querySelector('#status').innerText)"""
    )
    page.wait_for_selector(".preview", state="detached")
    page.wait_for_function("document.querySelector('#caption').innerText.includes('14 steps · 2 samples · seed 42')")
    page.wait_for_selector(PANELS, state="attached")
    assert page.locator(PANELS).count() == 10
    assert "precomputed" not in caption(page).lower()
    page.wait_for_function("document.querySelector('#link textarea, #link input').value.includes('seed=42')")


def test_a_sweep_draws_its_curves_and_can_be_stopped(visit):
    page = visit("?pde=poisson")
    choose(page, 3, 1, "7")
    page.click("#sweep-run")
    page.wait_for_function("document.querySelector('#sweep-curves').innerText.includes('1 sample · seed 7')")
    page.wait_for_function("!document.querySelector('#sweep-status .progress')")
    assert page.locator("#sweep-curves .chart").count() == 2
    ends = page.eval_on_selector_all("#sweep-curves .under", "all => all.map(e => e.innerText.split('\\n'))")
    assert all({"5", "10", "20", "40"} <= set(words) for words in ends)
    assert page.eval_on_selector("#sweep-curves .plot path.run0", "e => e.dataset.name") == "PIRF"
    page.hover("#sweep-curves .chart .plot")
    assert "steps:" in page.inner_text("#sweep-curves .plot.read output")
    choose(page, 3, 8, "8")
    page.click("#sweep-run")
    page.wait_for_selector("#sweep-status .progress")
    page.click("#sweep-stop")
    page.wait_for_function("document.querySelector('#sweep-status').innerText.includes('Stopped')")
    page.click("#run")  # ends a sweep that is under way
    page.wait_for_function("document.querySelector('#caption').innerText.includes('3 steps · 8 samples · seed 8')")
    assert "Stopped" not in page.inner_text("#sweep-status")


def test_downloads_are_files_of_the_comparison_on_show(visit, tmp_path):
    page = visit()
    choose(page, 5, 1, "6")
    run(page)
    for kind in ("npz", "png", "csv"):
        for _ in range(50):  # those of the first view until the new ones are written
            with page.expect_download() as download:
                page.get_by_role("button", name=f"Download .{kind}").click()
            name = download.value.suggested_filename
            if name == f"pirf-darcy-5steps-seed6.{kind}":
                break
            settled(page)
        assert name == f"pirf-darcy-5steps-seed6.{kind}"
        download.value.save_as(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100


PANEL_CHANGED = """before => {
    const image = document.querySelector("#grid .heatmaplayer image");
    return image && (image.getAttribute("href") || image.getAttribute("xlink:href")) !== before; }"""


def test_another_sample_is_shown_without_computing(visit):
    page = visit()
    for _ in range(2):  # the precomputed result, then one that has more samples than that
        panel = page.locator(PANELS).first
        before = panel.get_attribute("href") or panel.get_attribute("xlink:href")
        page.locator("#sample label").last.click()
        page.wait_for_function(PANEL_CHANGED, arg=before)
        assert page.inner_text("#status").strip() == ""
        if "precomputed" in caption(page).lower():
            choose(page, 2, 3, "8")
            run(page)
            page.wait_for_function("document.querySelectorAll('#sample label').length === 3")
            page.wait_for_selector(PANELS, state="attached")


def test_stop_frees_the_sampler_and_keeps_the_result(visit):
    page = visit()
    choose(page, 80, 8, "1")
    page.click("#run")
    page.wait_for_selector(".preview img")
    page.click("#stop")
    page.wait_for_selector(".preview", state="detached")
    assert "Stopped" in page.inner_text("#status")
    assert "seed 0" in caption(page)
    choose(page, 2, 1, "3")
    run(page)
    page.wait_for_function("document.querySelector('#caption').innerText.includes('seed 3')")


def test_a_bad_seed_is_answered_in_words_and_the_result_stays(visit):
    page = visit()
    for seed in ("abc", "-1", "9223372036854775808", "1.5", ""):
        choose(page, 2, 1, seed)
        page.click("#run")
        words = f"Seed must be a whole number from 0 to 2^63 - 1, not '{seed}'"
        page.wait_for_function(
            "words => document.querySelector('#status .problem')?.innerText.includes(words)", arg=words
        )
        assert page.locator(PANELS).count() == 10
        assert "seed 0" in caption(page)


def test_a_link_restores_settings(visit):
    page = visit("?pde=poisson&steps=20&seed=9223372036854775807&n=2&methods=base")
    page.wait_for_selector("#status .caption")
    page.wait_for_function("document.querySelectorAll('#controls input[type=checkbox]:checked').length === 1")
    assert page.input_value("#steps input[type=number]") == "20"
    assert page.input_value("#samples input[type=number]") == "2"
    assert page.input_value("#seed input, #seed textarea") == "9223372036854775807"
    assert page.inner_text("#pde label.selected") == "Poisson"
    assert not page.get_by_label("sigma_min").is_visible()


def test_no_run_is_asked_for_with_fewer_steps_than_its_models_need(visit):
    page = visit("?n=1&steps=3&seed=4&methods=base")
    page.wait_for_selector("#status .caption")
    assert "5 steps · 1 sample" in page.inner_text("#status")
    assert "It asks for 3 steps, in which these models give no samples" in page.inner_text("#status")
    steps, slider = page.locator("#steps input[type=number]"), page.locator("#steps input[type=range]")
    assert steps.input_value() == "5"
    assert slider.get_attribute("min") == "5"
    assert "steps=5" in page.input_value("#link textarea, #link input")
    choose(page, 4, 1, "4")  # of Darcy flow
    page.wait_for_function("document.querySelector('#steps input[type=number]').value === '5'")
    page.locator("#pde").get_by_label("Poisson", exact=True).check()
    page.wait_for_selector("#steps input[type=range][min='2']")
    choose(page, 3, 1, "5")
    run(page)
    assert "Poisson · 3 steps · 1 sample · seed 5" in caption(page)
    page.locator("#pde").get_by_label("Darcy flow", exact=True).check()
    page.wait_for_selector("#steps input[type=range][min='5']")
    page.wait_for_function("document.querySelector('#steps input[type=number]').value === '5'")
    run(page)
    assert "Darcy flow · 5 steps" in caption(page)


def test_a_schedule_in_a_link_is_on_show(visit):
    page = visit("?pde=poisson&sigma_min=0.05")
    page.get_by_label("sigma_min").wait_for()
    assert page.get_by_label("sigma_min").input_value() == "0.05"


@pytest.mark.parametrize("query", ["", "?pde=poisson&methods=base"])
def test_an_opened_noise_schedule_stays_empty_until_something_is_entered(visit, query):
    page = visit(query)
    page.locator("#schedule button").first.click()
    fields = page.locator("#schedule input, #schedule textarea")
    fields.first.wait_for()
    assert [field.input_value() for field in fields.all()] == ["", "", ""]
    choose(page, 2, 1, "11")
    run(page)
    assert "seed 11" in caption(page)
    assert "sigma" not in caption(page)
    page.get_by_label("sigma_min").fill(" 0.05 ")
    page.get_by_label("rho").fill("5")
    run(page)
    assert "sigma_min 0.05 · rho 5" in caption(page)
    link = "document.querySelector('#link textarea, #link input').value"
    page.wait_for_function(f"{link}.includes('sigma_min=0.05&rho=5')")
    page.get_by_label("rho").fill("")
    for entered in ("abc", "nan", "-1", "0", "1e999", "1,5"):
        page.get_by_label("sigma_min").fill(entered)
        page.click("#run")
        page.wait_for_selector("#status .problem")
        assert page.inner_text("#status .problem").lower().startswith("sigma_min must be")
        page.get_by_label("sigma_min").fill("")
        page.click("#sweep-run")  # which clears what was said
        page.wait_for_selector("#status .problem", state="detached")
    run(page)
    assert "sigma" not in caption(page)
    page.locator("#pde label").last.click()
    page.wait_for_function("document.querySelectorAll('#pde label.selected').length === 1")
    assert [field.input_value() for field in fields.all()] == ["", "", ""]


def test_a_link_that_cannot_be_used_is_said_to_be_so(visit):
    page = visit("?steps=0&pde=heat")
    page.wait_for_selector("#status .problem")
    assert "link cannot be used" in page.inner_text("#status")


def test_marks_and_dice_set_the_controls(visit):
    page = visit()
    page.click("#marks button:nth-child(4)")
    page.wait_for_function("document.querySelector('#steps input[type=number]').value === '40'")
    page.click("#dice")
    page.wait_for_function("document.querySelector('#seed input, #seed textarea').value.length > 1")


def test_every_benchmark_is_chosen_with_the_keyboard_and_computed(visit):
    page = visit("?n=1&steps=2&seed=4")
    page.wait_for_selector("#status .caption")
    picture = "title => getComputedStyle(document.querySelector(`[data-testid='${title}-radio-label']`), '::before')"
    for pde in map(get_pde, OFFERED):
        option = page.locator("#pde").get_by_label(pde.title, exact=True)
        option.focus()
        page.keyboard.press("Space")
        words = "words => document.querySelector('#equation').innerText.includes(words)"
        page.wait_for_function(words, arg=pde.boundary)
        assert page.evaluate(f"{picture}.backgroundImage", pde.title).startswith('url("data:image/png')
        run(page)
        titled = "title => document.querySelector('#caption').innerText.startsWith(title)"
        page.wait_for_function(titled, arg=pde.title)
        rows = page.locator(".figures tbody tr").count() - 1
        columns = 5 if pde.view == "steady" else 4
        page.wait_for_function(f"document.querySelectorAll('{PANELS}').length === {rows * columns}")
        assert page.locator("#play").is_visible() == (pde.view == "frames")
        assert {pde.axes[0], pde.axes[1]} <= set(page.inner_text("#grid").split())


@pytest.mark.skipif("kolmogorov" not in OFFERED, reason="there is no checkpoint of a flow in frames")
def test_frames_change_in_the_browser_without_computing(visit):
    page = visit("?pde=kolmogorov&n=1&steps=2&seed=4&methods=base")
    page.wait_for_selector("#status .caption")
    run(page)
    page.wait_for_selector("#play")
    settled(page)  # the files are asked for once the result is there
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)
    titled = "title => document.querySelector('#grid .annotation-text').textContent.startsWith(title)"
    page.wait_for_function(titled, arg="vorticity at frame 3")
    page.locator("#frame input[type=range]").press("ArrowLeft")
    page.wait_for_function(titled, arg="vorticity at frame 2")
    page.get_by_label("change since frame 1").check()
    page.wait_for_function(titled, arg="change w2 − w1")
    page.click("#play")
    for title in ("change w3", "no change yet", "change w2"):
        page.wait_for_function(titled, arg=title)
    page.click("#play")
    assert page.inner_text("#play") == "Play"
    assert page.locator(PANELS).count() == 4
    assert asked == []


@pytest.mark.parametrize("width", [390, 1024])
def test_nothing_sticks_out_of_the_page(visit, width):
    page = visit("?__theme=dark", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('.gradio-container').getBoundingClientRect().right") <= width
    assert page.evaluate("document.querySelector('#stage').scrollWidth") >= 800
