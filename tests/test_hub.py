"""Models from the Hub, through its own client, against a Hub on loopback: what works, and every way it fails."""

import json
import os
import socket
import threading
import time

import pytest
from conftest import REPO, TOKEN
from huggingface_hub import constants, scan_cache_dir
from terminal import refused, run

from pirf_app.hub import client as hub_client
from pirf_app.hub import fetch as hub
from pirf_app.hub.client import HubError, Transfer
from pirf_app.hub.collection import Collection, HubLibrary
from pirf_app.hub.fetch import fetch, parse_repo, prune
from pirf_app.hub.publish import send
from pirf_app.models.checkpoint import file_sha256
from pirf_app.models.library import Library


def hashes(folder) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.glob("*.safetensors")}


def refusal(text: str = REPO, **options) -> str:
    """The sentence that fetching is refused with."""
    with pytest.raises(HubError) as error:
        fetch(text, **options)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    assert sentence.startswith(parse_repo(text)[0])
    for secret in (TOKEN, "http", "127.0.0.1", "localhost"):
        assert secret not in sentence
    return sentence


def on_disk(folder) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/**/*") if path.is_file() and not path.is_symlink())


def test_what_is_published_comes_back(hub_here, plan, tiny_library):
    assert send(plan) == f"{hub_here.address}/{REPO}"
    snapshot = fetch(REPO)
    assert hashes(snapshot.folder) == hashes(tiny_library.folder)
    assert snapshot.commit == hub_here.repos["model", REPO].commits[-1][0]
    found = HubLibrary(snapshot, Library(snapshot.folder / "nothing"))
    assert found.problems == []
    assert found.manifest() == tiny_library.manifest()


def test_a_cached_commit_makes_no_request_and_a_cached_branch_one(published):
    commit = fetch(REPO).commit
    published.requests.clear()
    assert fetch(f"{REPO}@{commit}").commit == commit
    assert published.requests == []
    fetch(REPO)
    assert len(published.requests) == 1


def test_what_has_not_been_read_for_longest_makes_room_in_the_cache(hub_here, plan, tmp_path):
    cache, files = (
        tmp_path / "public",
        {k: v if isinstance(v, bytes) else v.read_bytes() for k, v in plan.files.items()},
    )
    prune(cache, 0)  # there is none yet
    for age, name in enumerate(("owner/new", "owner/older", "owner/oldest")):
        hub_here.add(name, files | {"which.txt": name.encode()})
        folder = fetch(name, cache_dir=cache).folder
        for path in folder.parents[1].rglob("*"):
            os.utime(path, (time.time() - 1000 * age, time.time()))
    size = on_disk(cache)
    prune(cache, size)
    assert len(list(cache.glob("models--*"))) == 3
    prune(cache, size - 1)
    assert {path.name for path in cache.glob("models--*")} == {"models--owner--new", "models--owner--older"}
    prune(cache, 0)
    assert not list(cache.glob("models--*"))


def test_what_was_refused_or_broken_off_is_no_part_of_the_cache_for_ever(published, tmp_path):
    cache = tmp_path / "public"
    published.add("owner/changed", published.repos["model", REPO].files)
    fetch("owner/changed", cache_dir=cache)
    published.add("owner/changed", {"README.md": b"nothing here any more"})
    refusal("owner/changed", cache_dir=cache)
    published.fault(r"GET /cdn/", "trickle")
    refusal(cache_dir=cache, transfer=Transfer(seconds=1))
    assert scan_cache_dir(cache).size_on_disk < on_disk(cache)
    prune(cache, 0)
    assert on_disk(cache) == 0


def test_the_commit_asked_for_is_the_commit_that_comes(published, tiny_library):
    first = fetch(REPO).commit
    files = published.repos["model", REPO].files
    published.add(REPO, files | {"manifest.json": json.dumps({"models": tiny_library.manifest()[:1]}).encode()})
    assert len(Library(fetch(REPO).folder).manifest()) == 1
    assert len(Library(fetch(f"{REPO}@{first}").folder).manifest()) == len(tiny_library.manifest())


def test_credentials_do_not_follow_to_another_host(published):
    fetch(REPO)
    assert published.asked("/cdn/")
    for method, path, authorization in published.requests:
        assert authorization == (None if path.startswith("/cdn/") else f"Bearer {TOKEN}"), (method, path)


def test_a_visitor_asks_without_the_token_of_this_machine(published):
    fetch(REPO, token=False)
    assert all(authorization is None for _, _, authorization in published.requests)
    published.add("owner/secret", published.repos["model", REPO].files, private=True)
    assert "no such public repository" in refusal("owner/secret", token=False)
    assert fetch("owner/secret").repo == "owner/secret"
    assert "no such public repository" in refusal("owner/secret", token=False)  # though this machine has it now


def test_a_token_that_is_not_valid_keeps_nothing_public_away(published, tiny_library, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    snapshot = fetch(REPO)
    assert "does not accept the token of this machine" in snapshot.note
    assert "hf_expired" not in snapshot.note
    assert HubLibrary(snapshot, Library()).problems == []
    assert run("models", "pull", REPO) == 0
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == len(tiny_library.manifest())
    assert "does not accept the token" in error
    collection = Collection(Library(tmp_path / "nothing"))
    arrival = collection.follow(REPO, cache_dir=tmp_path / "cache")
    assert arrival.ended.wait(20)
    assert arrival.state == "ready"
    assert "does not accept the token" in arrival.sentence
    published.add("owner/secret", published.repos["model", REPO].files, private=True)
    for name in ("owner/secret", "owner/nothing"):
        assert "no such public repository, or the token is not valid (401)" in refusal(name)


def test_a_token_that_is_given_is_tried_and_left_out_likewise(published):
    assert fetch(REPO, token="hf_another").note
    assert not fetch(REPO, token="hf_stranger").note
    assert not fetch(REPO, token=False).note


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        (r"/api/models/", {"status": 401}, "token is not valid (401)"),
        (r"/api/models/", {"status": 403}, "does not allow this"),
        (r"/api/models/", {"status": 404}, "no such repository"),
        (r"/api/models/", {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}}, "no such revision"),
        (r"/api/models/", {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "lets only some accounts in"),
        (r"/api/models/", {"status": 429, "headers": {"RateLimit": '"api";r=0;t=240'}}, "(429): try again in 240 s"),
        (r"/api/models/", {"status": 429, "headers": {"Retry-After": "99"}}, "(429): try again in 99 s"),
        (r"/resolve/", {"status": 429, "headers": {"Retry-After": "99"}}, "(429): try again in 99 s"),
        (r"/cdn/", {"status": 429}, "(429): try again later"),
        (r"/api/models/", {"status": 500}, "problem of its own (500)"),
        (r"/api/models/", {"status": 418}, "refused (418)"),
        (r"/cdn/", {"status": 503}, "problem of its own (503)"),
        (r"/cdn/", {"status": 404}, "no such repository"),
        (r"/api/models/", {"kind": "garbage"}, "answer cannot be used"),
        (r"GET .*manifest.json", {"kind": "garbage"}, "ended early"),
        (r"GET /cdn/", {"kind": "cut"}, "broke off again and again"),
        (r"/api/models/", {"kind": "stall"}, "did not answer in time"),
        (r"GET /cdn/", {"kind": "stall"}, "too slow"),
        (r"GET /cdn/", {"kind": "trickle"}, "too slow"),
    ],
    ids=str,
)
def test_every_failure_has_its_sentence_and_a_time_limit(published, monkeypatch, fault, options, words):
    monkeypatch.setattr(hub_client, "STALL", 0.5)
    published.fault(fault, **options)
    assert words in refusal(transfer=Transfer(seconds=4))
    published.faults.clear()
    assert len(HubLibrary(fetch(REPO), Library()).manifest()) > 0  # nothing half done is left in the way


def test_a_download_that_breaks_off_once_goes_on(published):
    published.fault(r"GET /cdn/", "cut", times=1)
    transfer = Transfer()
    fetch(REPO, transfer)
    assert transfer.done == transfer.total > 0


def test_no_hub_at_all(published, monkeypatch):
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port.getsockname()[1]}")
        assert "cannot be reached" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode" in refusal()


def test_a_look_up_that_hangs_is_not_waited_for(published, monkeypatch):
    hung = threading.Event()
    monkeypatch.setattr(hub_client, "FIRST_ANSWER", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hung.wait(60) and [])
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "did not answer" in refusal()
    hung.set()


def test_without_the_hub_what_was_fetched_is_used_and_said_to_be_old(published, monkeypatch):
    commit = fetch(REPO).commit
    for fault in ({"status": 503}, {"status": 429}, {"kind": "garbage"}):
        published.faults.clear()
        published.fault("/api/models/", **fault)
        snapshot = fetch(REPO)
        assert snapshot.commit == commit
        assert "as it was fetched earlier" in snapshot.note
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "as it was fetched earlier" in fetch(REPO).note
    assert fetch(f"{REPO}@{commit}").note == ""


def test_a_repository_over_the_limit_is_refused_before_it_is_fetched(published):
    published.extra_bytes = 2**28
    assert "the limit is 512.0 MB" in refusal()
    assert not published.asked("/resolve/|/cdn/")


def test_more_bytes_than_announced_are_not_taken(published):
    assert "limit" in refusal(transfer=Transfer(limit=10_000))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "has no manifest.json"),
        ({"models": []}, "from 1 to"),
        ({"models": 3}, "not one of this app"),
        ("nonsense", "not one of this app"),
        ({"file": "../../etc/passwd"}, "not one of this app"),
        ({"file": "model.pkl"}, "no checkpoint file"),
        ({"file": "<script>.safetensors"}, "no checkpoint file"),
        ({"file": "gone.safetensors"}, "not there"),
    ],
    ids=str,
)
def test_a_repository_without_a_good_manifest(published, tiny_library, manifest, words):
    files = dict(published.repos["model", REPO].files)
    if isinstance(manifest, dict) and "file" in manifest:
        manifest = {"models": [tiny_library.manifest()[0] | manifest]}
    files["manifest.json"] = json.dumps(manifest).encode()
    if manifest is None:
        del files["manifest.json"]
    published.add(REPO, files)
    assert words in refusal()


def test_only_models_that_are_what_the_manifest_says_are_offered(published, tiny_library):
    entries = tiny_library.manifest()
    files = dict(published.repos["model", REPO].files)
    whole = files["darcy-16-base.safetensors"]
    files["darcy-16-base.safetensors"] = whole[:-1] + bytes([whole[-1] ^ 1])
    wrong = {
        "poisson-16-base": {"resolution": 32},
        "burgers-16-pirf": {"size": 3},
        "burgers-16-base": {"figures": {"residual_rms": float("nan")}},
    }
    entries = [e | wrong.get(e["name"], {}) for e in entries]
    files["manifest.json"] = json.dumps({"models": entries}).encode()
    published.add(REPO, files)
    found = HubLibrary(fetch(REPO), Library())
    assert len(found.problems) == 5  # darcy's base, so its tuned one as well, poisson's base, and both of burgers
    assert any("SHA-256" in text for text in found.problems)
    for words in ("another resolution", "another size", "no finite number"):
        assert any(words in text for text in found.problems)
    names = {e["name"] for e in found.manifest()}
    assert names == {e["name"] for e in entries} - {"darcy-16-base", "darcy-16-pirf", *wrong}


def test_a_damaged_file_in_the_cache_is_fetched_again(published):
    path = fetch(REPO).folder / "darcy-16-base.safetensors"
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-9])
    snapshot = fetch(REPO)
    assert HubLibrary(snapshot, Library()).problems == []


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        (REPO, None),
        (f" {REPO} ", None),
        (f"{REPO}@", None),
        (f"{REPO}\n", None),
        (f"https://huggingface.co/{REPO}", None),
        (f"https://huggingface.co/{REPO}/tree/main", "main"),
        (f"hf://{REPO}@main", "main"),
    ],
)
def test_a_repository_may_be_given_by_its_page(text, revision):
    assert parse_repo(text) == (REPO, revision)


@pytest.mark.parametrize(
    "text",
    ["", "models", "a/b/c", "../b", "a/..", "a b/c", "a/b@../x", "a/b@-x", "a--b/c", "<b>/c", None, 3,
     "https://me:hf_abcdefgh@huggingface.co/a/b", "a" * 500, "\n"],
    ids=repr,
)  # fmt: skip
def test_a_name_that_is_none(text):
    with pytest.raises(HubError) as error:
        parse_repo(text)
    assert "OWNER/NAME" in str(error.value)
    assert "hf_abcdefgh" not in str(error.value)


def test_pull_from_the_command_line(published, tiny_library, capsys):
    assert run("models", "pull", REPO) == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    assert {sha256 for sha256, _ in lines} == set(hashes(tiny_library.folder).values())
    assert all(file_sha256(path) == sha256 for sha256, path in lines)
    assert "no such repository" in refused(capsys, "models", "pull", "owner/nothing")
    assert "OWNER/NAME" in refused(capsys, "models", "pull", "nothing")


def test_what_lies_in_the_cache_under_another_name_is_not_taken(published, tmp_path):
    commit = fetch(REPO, cache_dir=tmp_path).commit
    assert hub.cached(REPO, "manifest.json", commit, tmp_path).is_file()
    assert hub.cached(REPO, "manifest.json", "0" * 40, tmp_path) is None
    assert hub.cached("owner/other", "manifest.json", commit, tmp_path) is None
    assert hub.cached(REPO, "other.json", commit, tmp_path) is None
