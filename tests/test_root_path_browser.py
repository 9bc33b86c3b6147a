"""The page behind a proxy that serves it below a path of its own, as `GRADIO_ROOT_PATH` says."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from app_process import App
from browsing import go, settled
from gradio_client import Client

pytestmark = pytest.mark.ui
PREFIX = "/below/here"


class Proxy(BaseHTTPRequestHandler):
    """Hands what is asked for below `PREFIX` on to the app at `target`, and nothing else."""

    target = ""

    def hand_on(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        there = http.client.HTTPConnection(self.target.removeprefix("http://"))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "accept-encoding")}
        there.request(self.command, self.path.removeprefix(PREFIX), body, headers)
        answer = there.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while part := answer.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:  # whoever asked has gone
            self.close_connection = True
        finally:
            there.close()

    do_GET = do_POST = do_HEAD = hand_on

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(tmp_path, tiny_folder):
    with App(tmp_path, tiny_folder, GRADIO_ROOT_PATH=PREFIX) as app:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Proxy,), {"target": app.address}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}{PREFIX}"
        server.shutdown()
        server.server_close()


def test_page_and_api_work_below_a_path(browser, address):
    page = browser.new_page(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page.set_default_timeout(120_000)
    failed = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    go(page, f"{address}/?steps=3&n=1&seed=5")
    page.wait_for_selector("#status .caption")
    page.click("#run")
    page.wait_for_function("document.querySelector('#caption').innerText.includes('seed 5')")
    page.wait_for_selector("#grid .heatmaplayer image", state="attached")
    settled(page)
    link = page.input_value("#link textarea, #link input")
    assert link.startswith(f"{address}/?pde=")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download .csv").click()
    assert download.value.suggested_filename.endswith("seed5.csv")
    download.value.path()
    page.close()
    assert failed == []
    client = Client(f"{address}/", verbose=False)
    assert client.predict("darcy", ["base"], 2, 1, 0, api_name="/compare")["rows"]
