"""The app as a Space: what is uploaded starts by itself and answers; what nobody may see."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from pathlib import Path
from uuid import uuid4

import huggingface_hub
import pytest
from conftest import free_port
from gradio_client import Client
from hub_server import HubServer
from huggingface_hub import constants

from pirf_app.common.checks import InputError
from pirf_app.hub.publish import deploy_plan, run_plan, send
from pirf_app.ui.models import push

SECRET = "hf_" + uuid4().hex
CPU_SECONDS = 15  # from `python app.py` to the first answer, imports included; 10 and what a busy machine adds
NO_NETWORK = """
import socket
real = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1")):
        open(OUT, "a").write(f"{address}\\n")
        raise OSError("no network in this test")
    return real(self, address)
socket.socket.connect = connect
"""


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory) -> Path:
    """The files of a Space that the deploy command made, and no others."""
    folder = tmp_path_factory.mktemp("space")
    with HubServer() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.address)
        patch.setenv("HF_TOKEN", "hf_writer")
        huggingface_hub.utils._http.close_session()
        send(deploy_plan("owner/app", hardware="cpu-basic", models="owner/models"))
        for name, content in hub.repos["space", "owner/app"].files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def started(folder: Path, tmp_path: Path, seconds: float = 240, **more):
    """`python app.py` in `folder` with nothing else on its path and no network but loopback: process, address, log."""
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK.replace("OUT", repr(str(tmp_path / "asked.txt"))))
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIRF_", "HF_", "GRADIO_", "SPACE"))}
    env = kept | {"PORT": str(port), "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "HF_HOME": str(tmp_path)}
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=env | more, stdout=log, stderr=subprocess.STDOUT
        )
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5).read()
            break
        except (OSError, urllib.error.URLError):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise AssertionError(f"no answer: {(tmp_path / 'log.txt').read_text()}") from None
            time.sleep(0.1)
    return process, f"http://127.0.0.1:{port}", tmp_path / "log.txt"


def test_what_is_uploaded_starts_without_a_network_and_answers(uploaded, tmp_path):
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{dead.getsockname()[1]}"
        began = time.monotonic()
        process, address, log = started(
            uploaded, tmp_path, PIRF_MODEL_REPO="owner/models", HF_ENDPOINT=hub, HF_TOKEN=SECRET
        )
        try:
            used = cpu_seconds(process.pid)
            print(f"answered after {time.monotonic() - began:.1f} s, of which {used:.1f} s of computing")
            assert used < CPU_SECONDS
            client = Client(address, verbose=False)
            bundled = json.loads((uploaded / "checkpoints/manifest.json").read_text())["models"]
            assert client.predict(api_name="/models") == bundled
            answer = client.predict("poisson", ["base", "pirf"], 2, 1, 0, api_name="/compare")
            assert answer["rows"][1]["residual_rms"] < answer["rows"][0]["residual_rms"]
            for _ in range(100):
                if "the Hub cannot be reached; the bundled models are not affected" in log.read_text():
                    break
                time.sleep(0.1)
            assert "the Hub cannot be reached; the bundled models are not affected" in log.read_text()
            assert not (tmp_path / "asked.txt").exists(), (tmp_path / "asked.txt").read_text()
            everything = log.read_text() + urllib.request.urlopen(f"{address}/config").read().decode()
            assert SECRET not in everything
            assert SECRET not in str(client.view_api(return_format="dict", print_info=False))
        finally:
            process.terminate()
            process.wait(20)


def test_files_of_the_server_cannot_be_read(server, tiny_folder, tmp_path, monkeypatch):
    secret = tmp_path / "token"
    secret.write_text(SECRET)
    visitor = Path(__file__).parent / "conftest.py"
    for path in (secret, "/etc/passwd", "/proc/self/environ", tiny_folder / "manifest.json", visitor, Path.home()):
        for prefix in ("gradio_api/file=", "file=", "gradio_api/file/"):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(f"{server}/{prefix}{path}")
            assert error.value.code in (400, 403, 404, 405)


def test_signing_in_is_offered_on_a_space_only(monkeypatch, tiny_library):
    assert not push.possible()
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL", "SPACE_ID"):
        monkeypatch.setenv(name, "x")
    assert not push.possible()  # gradio would look for the token of whoever runs the app, and end where there is none
    monkeypatch.setenv("SYSTEM", "spaces")
    assert push.possible()
    monkeypatch.delenv("OAUTH_SCOPES")
    assert not push.possible()


def test_a_run_is_pushed_with_the_visitors_token_and_only_to_their_account(tiny_library, tmp_path, monkeypatch):
    path = tiny_library.folder / "darcy-16-pirf.safetensors"
    model = types.SimpleNamespace(path=path, name="my run")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        huggingface_hub.utils._http.close_session()
        hub.tokens[SECRET] = "visitor"
        said = push.pushed(model, tiny_library, " my-run ", "visitor", SECRET)
        assert "visitor/my-run" in said
        assert SECRET not in said
        card = hub.repos["model", "visitor/my-run"].files["README.md"].decode()
        assert "my run" in card
        assert SECRET not in card
        assert {authorization for *_, authorization in hub.requests} <= {f"Bearer {SECRET}", None}
        for name in ("../owner/x", "a/b", "", "x@main", None):
            with pytest.raises(InputError) as error:
                push.pushed(model, tiny_library, name, "visitor", SECRET)
            assert SECRET not in str(error.value)
        for username, token in ((None, SECRET), ("visitor", None), (None, None)):
            with pytest.raises(InputError, match="sign in"):
                push.pushed(model, tiny_library, "x", username, token)
        assert set(hub.repos) == {("model", "visitor/my-run")}
    alone = shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match="parent"):
        run_plan(Path(alone), type(tiny_library)(tmp_path), "visitor/x", "x")
