"""Fine-tuning through the HTTP API of a running app with small models."""

from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from safetensors.torch import load_file
from waiting import eventually

from pirf_app.models.library import Library
from pirf_app.ui.serving import gpu_training

QUICK = {"pde": "darcy", "pool_steps": "4", "pool": 8, "batch": 2, "validation": 2, "validate_every": 2, "seed": 3}


def file_of(result: dict) -> Path:
    """The downloaded file: the client puts its path in the place of the file's description."""
    file = result["file"]
    return Path(file["path"] if isinstance(file, dict) else file)


@pytest.fixture(scope="module")
def clients(tiny_server):
    """Two visitors."""
    both = [Client(tiny_server, verbose=False) for _ in range(2)]
    yield both
    for client in both:
        client.close()


def test_finetune_streams_and_gives_figures_and_a_file(clients, tiny_library):
    client, other = clients
    job = client.submit(**QUICK, updates=30, name="mine", api_name="/finetune")
    result = job.result(timeout=120)
    told = [row for row in job.outputs() if "file" not in row]
    assert told
    assert [row["update"] for row in told] == sorted(row["update"] for row in told)
    assert result["phase"] == "complete"
    assert result["update"] == result["updates"] == 30
    assert [step["update"] for step in result["history"]] == list(range(31))
    assert result["held_out"]["validation_residual"] > 0
    assert "--updates 30" in result["command"]
    path = file_of(result)
    assert path.name == "mine.safetensors"
    checkpoint = Library(tiny_library.folder).load_file(path)
    assert checkpoint.info.method == "pirf"
    assert checkpoint.sha256 == result["sha256"]

    answer = client.predict("darcy", ["base", result["model"]], 3, 1, 0, api_name="/compare")
    assert [row["method"] for row in answer["rows"]] == ["base", "my:mine"]
    with pytest.raises(AppError, match="available are base, pirf"):
        other.predict("darcy", ["base", result["model"]], 3, 1, 0, api_name="/compare")

    again = client.predict(**QUICK, updates=30, name="again", api_name="/finetune")
    first, second = load_file(path), load_file(file_of(again))
    assert all((first[key] == second[key]).all() for key in first)
    further = client.predict(**QUICK, updates=2, start="my:mine", api_name="/finetune")
    assert "--from mine.safetensors" in further["command"]
    with pytest.raises(AppError, match="cannot start from"):
        other.predict(**QUICK, updates=2, start="my:mine", api_name="/finetune")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "either a preset or a number of updates"),
        ({"updates": 0}, "updates must be"),
        ({"updates": "ten"}, "updates must be"),
        ({"preset": "1h"}, "unknown preset"),
        ({"updates": 2, "pde": "heat"}, "unknown PDE"),
        ({"updates": 2, "method": "magic"}, "unknown fine-tuning method"),
        ({"updates": 2, "method": "pidm", "norm": "plain"}, "PIDM has no setting 'norm'"),
        ({"updates": 2, "residual_weight": 2.0}, "PIRF has no setting 'residual-weight'"),
        ({"updates": 2, "start": "pirf"}, "cannot start from"),
        ({"updates": 2, "trainable": "none"}, "trainable must be one of"),
        ({"updates": 2, "trainable": ["last"]}, "trainable must be one of"),
        ({"updates": 2, "method": ["pirf"]}, "unknown fine-tuning method"),
        ({"preset": ["30s"]}, "unknown preset"),
        ({"updates": 2, "last_steps": 11}, "last_steps must be a whole number from 1 to 10"),
        ({"updates": 2, "pool_steps": "4,1000"}, "must be a whole number from 2 to 80"),
        ({"updates": 2, "name": "../up"}, "a name has"),
        ({"updates": 1_000_000, "batch": 4096}, "are allowed"),
    ],
)
def test_bad_requests_are_answered_with_one_sentence_and_the_app_lives(clients, changes, words):
    with pytest.raises(AppError, match=words):
        clients[0].predict(**(QUICK | changes), api_name="/finetune")
    assert clients[0].predict(api_name="/models")


def watched(client, **request) -> tuple[list[dict], Exception | None]:
    """What a loop over a run sees, and how the call ends."""
    job = client.submit(**request, api_name="/finetune")
    states = list(job)
    return states, job.exception(timeout=60)


def test_a_loop_over_a_refused_run_sees_why(clients):
    for changes, words in (({"updates": 2, "start": "pirf"}, "cannot start from"), ({}, "either a preset")):
        states, error = watched(clients[0], **QUICK | changes)
        assert [state["phase"] for state in states] == ["refused"]
        assert words in states[-1]["message"]
        assert states[-1]["message"] in str(error)
        assert (states[-1]["update"], states[-1]["updates"], states[-1]["latest"]) == (0, 0, None)


def test_a_loop_over_a_run_that_breaks_down_sees_it(clients, monkeypatch, caplog):
    def broken(run):
        yield from ()
        raise RuntimeError("out of paper")

    with monkeypatch.context() as patch:
        patch.setattr(gpu_training, "events", broken)
        states, error = watched(clients[0], **QUICK, updates=4)
    assert states[-1]["phase"] == "failed"
    assert states[-1]["updates"] == 4
    assert states[-1]["message"] == "the training failed; the server's log says why"
    assert states[-1]["message"] in str(error)
    assert "out of paper" in caplog.text
    assert "out of paper" not in str(states) + str(error)
    states, error = watched(clients[0], **QUICK, updates=4)
    assert (states[-1]["phase"], error) == ("complete", None)


def test_a_loop_over_a_run_that_diverges_sees_it(clients):
    states, error = watched(clients[0], **QUICK | {"validate_every": 25}, updates=100, learning_rate=1e36)
    assert states[-1]["phase"] == "diverged"
    assert "lower learning rate; nothing had been learned by then" in states[-1]["message"]
    assert states[-1]["message"] in str(error)


def test_of_two_runs_asked_for_at_once_one_is_refused_and_the_other_is_not_harmed(clients):
    jobs = [clients[1].submit(**QUICK, updates=40, name=name, api_name="/finetune") for name in ("one", "two")]
    found = []
    for job in jobs:
        try:
            found.append(job.result(timeout=120)["phase"])
        except AppError as error:
            found.append(str(error))
    assert "complete" in found
    assert all(said == "complete" or "a run of yours is under way" in said for said in found)


def test_another_method_is_one_word_away(clients, tiny_library):
    result = clients[1].predict(**QUICK, method="pidm", residual_weight=2.0, updates=3, api_name="/finetune")
    assert "--method pidm" in result["command"]
    assert "--residual-weight 2.0" in result["command"]
    info = Library(tiny_library.folder).load_file(file_of(result)).info
    assert (info.method, info.recipe["config"]["residual_weight"]) == ("pidm", 2.0)


def test_a_learning_rate_of_ten_ends_in_words_and_the_rest_goes_on(clients):
    recipe = QUICK | {"validate_every": 25}
    result = clients[0].predict(**recipe, updates=100, learning_rate=10, api_name="/finetune")
    assert result["phase"] in ("diverged", "complete")
    assert result["phase"] == "complete" or "lower learning rate" in result["message"]
    assert all(tensor.isfinite().all() for tensor in load_file(file_of(result)).values())
    assert clients[1].predict("darcy", ["base"], 2, 1, 0, api_name="/compare")["rows"]


def test_sampling_goes_on_beside_a_training_and_leaving_ends_it(tiny_server, clients):
    leaver = Client(tiny_server, verbose=False)
    job = leaver.submit(**QUICK | {"validate_every": 1000}, updates=2000, api_name="/finetune")
    eventually(lambda: job.outputs() or job.done())
    assert not job.done(), job.exception()
    assert clients[0].predict("darcy", ["base", "pirf"], 5, 2, 0, api_name="/compare")["rows"]
    assert not job.done()
    job.cancel()
    leaver.close()
    places = tiny_server_lanes(tiny_server)
    eventually(lambda: not places())


def tiny_server_lanes(url: str):
    """How many runs the server of that address has in its line of trainers."""
    from conftest import LANES

    return lambda: len(LANES[url].training._places)
