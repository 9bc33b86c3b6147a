"""The app as a Space: what is uploaded starts by itself and answers; a shared GPU; what nobody may see."""

import importlib
import itertools
import json
import os
import pickle
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import gradio as gr
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import free_port
from gradio_client import Client
from hub_server import HubServer
from huggingface_hub import constants

from pirf_app import comparison as cmp
from pirf_app.checkpoints import load_checkpoint
from pirf_app.methods.pirf import PirfTuning
from pirf_app.methods.pirf_config import DivergedError, PirfConfig, PirfStep
from pirf_app.pdes.base import InputError
from pirf_app.publishing import deploy_plan, run_plan, send
from pirf_app.ui import gpu, gpu_training, push
from pirf_app.ui.history import History

SECRET = "hf_" + uuid4().hex
QUICK = PirfConfig(updates=4, pool=4, batch=2, validation=2, validate_every=1, pool_steps=(3,), warmup=1)
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


@pytest.fixture
def lent(monkeypatch):
    """`spaces` as on a Space with a shared GPU: what goes to a task and what comes back is pickled, and an exception
    arrives without its words. Its `asked` are the seconds that were asked for."""
    asked = []

    def decorator(duration):
        def decorate(task):
            def handler(*arguments):
                asked.append(duration(*arguments))
                try:
                    for result in task(*pickle.loads(pickle.dumps(arguments))):
                        yield pickle.loads(pickle.dumps(result))
                except Exception as error:
                    raise RuntimeError(type(error).__name__) from None

            return handler

        return decorate

    stub = types.SimpleNamespace(GPU=lambda duration: decorator(duration), asked=asked)
    monkeypatch.setitem(sys.modules, "spaces", stub)
    yield stub
    monkeypatch.undo()
    importlib.reload(gpu)


@pytest.fixture
def lent_training(lent):
    """`gpu_training` on a shared GPU."""
    importlib.reload(gpu)
    yield importlib.reload(gpu_training)
    sys.modules.pop("spaces")
    importlib.reload(gpu)
    importlib.reload(gpu_training)


def test_sampling_on_a_shared_gpu_is_sampling(tiny_library, lent):
    task = importlib.reload(gpu)
    settings = cmp.check_settings(tiny_library, "darcy", ["base", "pirf"], 3, 2, 7)
    *previews, result = task.run(tiny_library, settings)
    *expected, same = cmp.run(tiny_library, settings)
    assert [(p.method, p.step) for p in previews] == [(p.method, p.step) for p in expected]
    for ours, theirs in zip(result.results, same.results, strict=True):
        np.testing.assert_array_equal(ours.fields, theirs.fields)
    assert lent.asked == [task.START + 1]
    many = cmp.check_settings(tiny_library, "darcy", ["base", "pirf"], 80, 8, 7)
    assert lent.asked[0] < task.START + task.sampling_seconds(many, *cmp.models(tiny_library, many)) < task.LONGEST


def test_what_is_wrong_is_said_across_a_shared_gpu(tiny_library, lent):
    task = importlib.reload(gpu)
    settings = cmp.check_settings(tiny_library, "darcy", ["base"], 2, 1, 0)

    @task.on_gpu(lambda *_: 1)
    def refusing(_):
        yield 1
        raise InputError("one sentence")

    run = refusing(settings)
    assert next(run) == 1
    with pytest.raises(InputError, match="one sentence"):
        next(run)


def test_training_on_a_shared_gpu_is_training(tiny_library, lent_training, lent, tmp_path):
    base = tiny_library.load("darcy", "base", 16)
    before = {k: v.clone() for k, v in base.denoiser.state_dict().items()}
    alone = PirfTuning(base, QUICK)
    expected = [replace(event, seconds=0) for event in alone.run()]
    run = PirfTuning(base, QUICK)
    assert [replace(event, seconds=0) for event in lent_training.events(run)] == expected
    assert len(lent.asked) == 1
    assert gpu.START < lent.asked[0] < gpu.LONGEST
    run.export(tmp_path / "tuned.safetensors")
    assert load_checkpoint(tmp_path / "tuned.safetensors", tiny_library.find_parent).info.parent == base.sha256
    assert all(torch.equal(v, before[k]) for k, v in base.denoiser.state_dict().items())
    for mine, theirs in zip(run.average, alone.average, strict=True):
        assert torch.equal(mine, theirs)


def test_a_long_run_on_a_shared_gpu_is_several_tasks_and_stops_at_what_was_kept(
    tiny_library, lent_training, lent, monkeypatch
):
    base = tiny_library.load("darcy", "base", 16)
    alone = PirfTuning(base, QUICK)
    done = list(alone.run())
    ticks = itertools.count()
    monkeypatch.setattr(lent_training, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(lent_training, "WORK_SECONDS", 6)  # that is, events
    run = PirfTuning(base, QUICK)
    assert len(list(lent_training.events(run))) >= len(done)
    assert len(lent.asked) > 1
    assert all(torch.equal(*pair) for pair in zip(run.average, alone.average, strict=True))

    monkeypatch.setattr(lent_training, "KEEP_SECONDS", 2)
    monkeypatch.setattr(lent_training, "WORK_SECONDS", 1000)
    stopped, history = PirfTuning(base, QUICK), History("", QUICK.updates)
    events = lent_training.events(stopped)
    for event in events:
        if isinstance(event, PirfStep):
            history.add(event)
            if event.update == 3:
                break
    events.close()
    assert 0 < stopped.update < 3  # what comes after the last state that was kept is lost, and repeated
    for event in lent_training.events(stopped):
        if isinstance(event, PirfStep):
            history.add(event)
    assert [step.update for step in history.steps] == list(range(QUICK.updates + 1))
    assert all(torch.equal(*pair) for pair in zip(stopped.average, alone.average, strict=True))


def test_a_run_that_diverges_on_a_shared_gpu_says_so_and_keeps_its_last_finite_state(tiny_library, lent_training):
    base = tiny_library.load("darcy", "base", 16)
    config = replace(QUICK, updates=50, validate_every=50, learning_rate=1e30)
    run, alone = PirfTuning(base, config), PirfTuning(base, config)
    for events in (lent_training.events(run), alone.run()):
        with pytest.raises(DivergedError, match="lower learning rate"):
            list(events)
    assert run.update == alone.update
    assert all(torch.equal(*pair) for pair in zip(run.average, alone.average, strict=True))


def test_why_no_gpu_was_lent_is_told(tiny_library, lent, monkeypatch):
    def refusing(duration):
        def decorate(task):
            def handler(*arguments):
                raise gr.Error('You have exceeded your GPU quota. <a href="x">Subscribe</a>')
                yield

            return handler

        return decorate

    monkeypatch.setattr(lent, "GPU", refusing)
    task = importlib.reload(gpu)
    settings = cmp.check_settings(tiny_library, "darcy", ["base"], 2, 1, 0)
    with pytest.raises(InputError, match=r"^You have exceeded your GPU quota. Subscribe$"):
        cmp.last(task.run(tiny_library, settings))


def test_without_spaces_the_task_runs_here(tiny_library):
    settings = cmp.check_settings(tiny_library, "darcy", ["base"], 2, 1, 0)
    assert cmp.last(gpu.run(tiny_library, settings)).results
    assert gpu.spaces is None or not hasattr(gpu.spaces, "asked")


def test_signing_in_is_offered_on_a_space_only(monkeypatch, tiny_library):
    assert not push.possible()
    for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL", "SPACE_ID"):
        monkeypatch.setenv(name, "x")
    assert push.possible() == all(importlib.util.find_spec(name) for name in push.NEEDS)


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
    with pytest.raises(InputError, match="parent"):
        run_plan(path, type(tiny_library)(tmp_path), "visitor/x", "x")
