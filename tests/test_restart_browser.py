"""A page whose server is killed and started again: what it says is lost, and that it goes on working."""

import pytest
from app_process import App
from browsing import alive, ask, go, reload, settled, wait_for_state

pytestmark = pytest.mark.ui


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(120_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


@pytest.fixture
def app(tmp_path, tiny_folder):
    with App(tmp_path, tiny_folder) as app:
        yield app


def restarted(app: App) -> None:
    """Kills the server and starts another one in its place."""
    app.process.kill()
    app.process.wait()
    app.start()
    app.wait()


def notice(page) -> str:
    return page.inner_text("#notice").strip()


def train(page, **values) -> None:
    page.get_by_role("tab", name="Train").click()
    page.wait_for_selector("#estimate strong")
    ask(page, **values)
    page.click("#train-start")


def compare(page, seed: int) -> None:
    settled(page)  # what a page does by itself once it is loaded would take the seed back
    page.locator("#seed input, #seed textarea").fill(str(seed))
    page.click("#run")
    page.wait_for_function("seed => document.querySelector('#caption').innerText.includes(`seed ${seed}`)", arg=seed)


def test_a_page_that_was_training_says_that_the_run_is_lost_and_trains_again(page, app):
    go(page, app.address)
    train(page, updates=1500, name="lost")
    page.wait_for_function("parseInt(document.querySelector('.tile strong')?.innerText) > 3")
    page.evaluate("window.before = true")
    restarted(app)
    page.wait_for_function("!window.before")  # gradio loads the page again
    alive(page)
    page.wait_for_selector("#notice .problem")
    assert "server was restarted, and the run" in notice(page)
    train(page, updates=4, name="again")
    wait_for_state(page, "Complete")
    assert notice(page) == ""
    reload(page)  # this time the server is the same
    page.get_by_role("tab", name="Train").click()
    wait_for_state(page, "Complete")
    assert notice(page) == ""


def test_a_page_that_was_sampling_says_so_too(page, app):
    go(page, f"{app.address}/?steps=80&n=8")
    page.wait_for_selector("#status .caption")
    page.click("#run")
    page.wait_for_selector(".preview img")
    page.evaluate("window.before = true")
    restarted(app)
    page.wait_for_function("!window.before")
    alive(page)
    page.wait_for_selector("#notice .problem")
    assert "the comparison of this page went with it" in notice(page)
    compare(page, 3)
    assert notice(page) == ""


def test_a_page_with_results_says_what_is_lost_when_something_is_done_there(page, app):
    go(page, app.address)
    compare(page, 1)
    train(page, updates=4, name="mine")
    wait_for_state(page, "Complete")
    page.wait_for_selector("#own-model input")
    settled(page)
    page.evaluate("window.before = true")
    restarted(app)
    assert page.evaluate("window.before")  # nobody has done anything
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_function("!window.before")
    alive(page)
    page.wait_for_selector("#notice .problem")
    assert "the comparison, the run and the models of this page went with it" in notice(page)
    assert "mine" not in page.inner_text("#controls")
    compare(page, 2)
    assert notice(page) == ""


def test_a_page_that_had_nothing_there_stays_and_says_nothing(page, app):
    go(page, app.address)
    settled(page)
    page.evaluate("window.before = true")
    restarted(app)
    with page.expect_response("**/app_id"):
        page.get_by_role("tab", name="Models").click()
    page.get_by_role("tab", name="Compare").click()
    compare(page, 1)
    assert page.evaluate("window.before")
    assert notice(page) == ""
