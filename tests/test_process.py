"""The server as a process: the address that it is asked to listen on, and what it leaves behind when it ends."""

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from app_process import ROOT, App, environment
from conftest import free_port
from gradio_client import Client
from test_trainer_api import QUICK


def refused(tmp_path: Path, **more) -> str:
    """What `python app.py` says of an address that it cannot listen on."""
    env = environment(tmp_path, **more)
    done = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=env, capture_output=True, timeout=120)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert len(said.splitlines()) == 1
    assert said.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
    return said


@pytest.mark.parametrize("name", ["PORT", "GRADIO_SERVER_PORT"])
@pytest.mark.parametrize("port", ["abc", "99999", "0", "-1", "7860.5"])
def test_a_port_that_is_none_is_refused_in_a_sentence(tmp_path, name, port):
    assert f"{name} must be a whole number from 1 to 65535, not '{port}'" in refused(tmp_path, **{name: port})


def test_a_port_that_is_taken_is_refused_in_a_sentence(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port} is taken" in refused(tmp_path, PORT=str(port))


def test_an_address_of_another_machine_is_refused_in_a_sentence(tmp_path):
    said = refused(tmp_path, PORT=str(free_port()), GRADIO_SERVER_NAME="192.0.2.1")
    assert "'192.0.2.1' is no address of this machine" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_end_does_so_and_leaves_no_file(tmp_path, tiny_folder, number):
    """With a training under way, its page open, and models of visitors."""
    with App(tmp_path, tiny_folder) as app:
        client = Client(app.address, verbose=False)
        client.predict(**QUICK, updates=1, name="kept", api_name="/finetune")
        job = client.submit(**QUICK | {"validate_every": 1000}, updates=5000, api_name="/finetune")
        while not any(state["phase"] == "tuning" for state in job.outputs()):
            assert not job.done(), job.exception()
            time.sleep(0.1)
        assert any(path.name == "kept.safetensors" for path in app.files)
        app.process.send_signal(number)
        assert app.process.wait(20) == 0
        assert app.files == []
        assert "Traceback" not in app.log.read_text()


def test_what_a_crashed_server_left_goes_when_the_next_one_starts(tmp_path, tiny_folder):
    with App(tmp_path, tiny_folder) as crashed, App(tmp_path, tiny_folder) as alive:
        for app, name in ((crashed, "lost"), (alive, "kept")):
            Client(app.address, verbose=False).predict(**QUICK, updates=1, name=name, api_name="/finetune")
        crashed.process.kill()
        crashed.process.wait()
        assert any(path.name == "lost.safetensors" for path in crashed.files)
        with App(tmp_path, tiny_folder):
            names = {path.name for path in alive.files}
            assert "lost.safetensors" not in names
            assert "kept.safetensors" in names


FORKED = """
import os, signal, sys, tempfile, time
from pirf_app.ui.serving.process import temporary_files
with temporary_files():
    folder = tempfile.mkdtemp()
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"here")
        time.sleep(60)
    os.read(heard, 4)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert os.path.isdir(folder)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_a_process_that_works_for_the_server_ends_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=ROOT, env=environment(tmp_path), timeout=120)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["monitoring", "monitoring/summary", "monitoring/x", "openapi.json"])
def test_who_asked_for_what_is_not_for_strangers(server, path):
    Client(server, verbose=False).predict("poisson", ["base"], 2, 1, 0, api_name="/compare")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server}/{path}")
    assert error.value.code in (403, 404)
