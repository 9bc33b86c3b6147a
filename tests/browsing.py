"""Pages in a browser: fixtures that open them, and what is done in the Train tab again and again."""

import os
import re
import shutil

import pytest

EVENT = re.compile(r"/gradio_api/(queue/|run/|upload)")
PANELS = "#grid .heatmaplayer image"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


_under_way: dict[object, set] = {}  # by page, the requests of its events that have not ended


def alive(page) -> None:
    """Waits until the page hears what is done on it: until all of it is there, and its own script has run."""
    page.wait_for_selector("html[data-mounted]", state="attached")


def go(page, address: str) -> None:
    """Opens an address of the app; what is clicked on from here on is heard."""
    if page not in _under_way:
        found = _under_way[page] = set()
        page.on("request", lambda request: found.add(request) if EVENT.search(request.url) else None)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: found.discard(request))
        page.on("close", lambda closed: _under_way.pop(closed, None))
    page.goto(address)
    alive(page)


def settled(page) -> None:
    """Waits until no event of the page is under way, nor another that follows on it."""
    quiet = 0
    while quiet < 5:
        page.wait_for_timeout(100)  # in which the page tells of its requests
        quiet = 0 if _under_way[page] else quiet + 1


def reload(page) -> None:
    """Loads the page again."""
    page.reload()
    alive(page)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        except sync_api.Error as error:
            if os.environ.get("PIRF_REQUIRE_BROWSER"):
                raise
            pytest.skip(f"there is no browser to test with ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Opens the page and waits for its figure; at the end no error may have reached the console, and nothing may have
    been asked of any other host."""
    pages, errors, foreign = [], [], []

    def open_page(query: str = "", width: int = 1440, height: int = 900):
        page = browser.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.set_default_timeout(120_000)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda r: foreign.append(r.url) if not r.url.startswith((server, "data:", "blob:")) else None
        )
        go(page, f"{server}/{query}")
        page.wait_for_selector(PANELS, state="attached")
        page.wait_for_function("document.querySelector('#link textarea, #link input').value.includes('pde=')")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert errors == []
    assert foreign == []


@pytest.fixture
def visitor(browser, tiny_server):
    """Opens the Train tab for one more visitor; at the end nothing may have gone wrong in the page."""
    contexts, errors = [], []

    def open_page(width: int = 1440, query: str = ""):
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        go(page, f"{tiny_server}/{query}")
        page.get_by_role("tab", name="Train").click()
        page.wait_for_selector("#estimate strong")
        return page

    open_page.errors = errors
    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def enter(page, name: str, value: object) -> None:
    box = page.locator(f"#train-{name} input, #train-{name} textarea").first
    box.fill(str(value))
    box.press("Tab")


def ask(page, **values) -> None:
    """Fills in a small recipe."""
    if not page.locator("#train-pool").is_visible():
        page.locator("#advanced button").first.click()
    for name, value in (
        {"pool": 8, "batch": 2, "validation": 2, "validate_every": 5, "pool_steps": 4} | values
    ).items():
        enter(page, name, value)


def wait_for_state(page, state: str) -> None:
    page.wait_for_function("state => document.querySelector('.pill')?.textContent === state", arg=state)


def count_of(page) -> int:
    return int(re.search(r"Update\s+(\d+)", page.inner_text(".tiles")).group(1))
