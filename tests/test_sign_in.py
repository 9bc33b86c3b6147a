"""On a Space: a visitor adds a model, signs in, and pushes it to their account. Provider and Hub are on loopback; what
signs in is gradio's own code, and what pushes is the app's."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import pytest
from browsing import alive, go
from hub_server import HubServer
from joserfc import jwt
from joserfc.jwk import RSAKey
from test_spaces import started

pytestmark = pytest.mark.ui
CLIENT, TOKEN = "client", "hf_" + uuid4().hex


class Provider(BaseHTTPRequestHandler):
    """An OpenID provider that lets everybody in as `visitor`."""

    key = RSAKey.generate_key(2048, {"kid": "key"})
    nonce = ""

    def answer(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def do_GET(self):
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/oauth/authorize":
            Provider.nonce = asked["nonce"]
            back = asked["redirect_uri"]
            self.send_response(302)
            self.send_header("Location", f"{back}&{urlencode({'code': 'code', 'state': asked['state']})}")
            self.end_headers()
        elif url.path == "/jwks":
            self.answer({"keys": [self.key.as_dict(private=False)]})
        else:
            pages = {"authorization_endpoint": "oauth/authorize", "token_endpoint": "oauth/token", "jwks_uri": "jwks"}
            self.answer({name: f"{self.address}/{page}" for name, page in pages.items()} | {"issuer": self.address})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        now, who = int(time.time()), {"sub": "1", "name": "A Visitor", "preferred_username": "visitor"}
        who |= {"profile": f"{self.address}/visitor", "picture": f"{self.address}/picture"}
        claims = who | {"iss": self.address, "aud": CLIENT, "iat": now, "exp": now + 600, "nonce": self.nonce}
        signed = jwt.encode({"alg": "RS256", "kid": "key"}, claims, self.key)
        token = {"access_token": TOKEN, "token_type": "bearer", "expires_in": 600, "scope": "openid contribute-repos"}
        self.answer(token | {"id_token": signed})

    def log_message(self, *arguments):
        pass


@pytest.fixture
def provider():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_visitor_signs_in_and_pushes_what_they_had_before(request, browser, provider, tiny_folder, tmp_path):
    space = {"SYSTEM": "spaces", "SPACE_ID": "owner/app", "GRADIO_SERVER_NAME": "127.0.0.1"}
    space |= {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": "secret", "OPENID_PROVIDER_URL": provider}
    space |= {"OAUTH_SCOPES": "openid profile contribute-repos", "PIRF_CHECKPOINTS": str(tiny_folder)}
    with HubServer() as hub:
        hub.tokens[TOKEN] = "visitor"
        process, address, log = started(request.config.rootpath, tmp_path, **space, HF_ENDPOINT=hub.address)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        try:
            go(page, address)
            page.get_by_role("tab", name="Models").click()
            page.set_input_files("#models-tools input[type=file]", tiny_folder / "darcy-16-pirf.safetensors")
            said = "words => document.querySelector('#models-status').innerText.includes(words)"
            page.wait_for_function(said, arg="one of your models now")
            page.click("#models-push")
            page.wait_for_function(said, arg="Sign in with Hugging Face first")
            page.evaluate("window.before = true")
            page.get_by_role("button", name="Sign in with Hugging Face").click()
            page.wait_for_function("!window.before")
            alive(page)
            page.get_by_role("tab", name="Models").click()
            page.get_by_role("button", name="Logout (visitor)").wait_for()
            page.wait_for_function("document.querySelector('#models-own input')?.value === 'darcy-16-pirf'")
            page.click("#models-push")
            page.wait_for_function(said, arg="visitor/pirf-run")
            assert page.locator("#models-status a").get_attribute("href") == f"{hub.address}/visitor/pirf-run"
            assert TOKEN not in page.content()
        finally:
            page.close()
            process.terminate()
            process.wait(20)
    files = hub.repos["model", "visitor/pirf-run"].files
    assert {"README.md", "manifest.json", "darcy-16-pirf.safetensors"} <= set(files)
    assert TOKEN not in log.read_text()
    assert not (tmp_path / "asked.txt").exists()
