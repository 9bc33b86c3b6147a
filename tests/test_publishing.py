"""What goes to a Hub on loopback: models, runs and the app itself; and the collection of what comes from it."""

import json
import logging
import re
import shutil
import threading
import time

import pytest
import torch
from conftest import REPO, TOKEN
from huggingface_hub import ModelCard, SpaceCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from spoiled import rewrite
from terminal import run
from tiny import HANDOVER, info_of, tiny_denoiser, tuned_from

from pirf_app.cli import hub
from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE
from pirf_app.evaluation.comparison import compare, last
from pirf_app.evaluation.report import REPORT
from pirf_app.hub import publish
from pirf_app.hub.client import HubError
from pirf_app.hub.collection import Collection, HubLibrary
from pirf_app.hub.fetch import fetch
from pirf_app.hub.publish import deploy_plan, publish_plan, run_plan, send, space_readme
from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.models.library import Library
from pirf_app.ui.serving.visitors import Visitors


def test_what_has_not_changed_is_not_sent_again(published, plan):
    send(plan)
    assert not published.asked("PUT|/commit/")


@pytest.fixture
def other_darcy(tmp_path) -> Library:
    """A bundled library with models of Darcy that are others than the published ones."""
    model = tiny_denoiser("darcy", seed=1)
    parent = save_checkpoint(tmp_path / "darcy-16-base.safetensors", model, info_of(model, "darcy"))
    info = info_of(model, "darcy", "pirf", parent=parent, handover=HANDOVER)
    save_checkpoint(tmp_path / "darcy-16-pirf.safetensors", tuned_from(model), info)
    bundled = Library(tmp_path)
    bundled.write_manifest()
    return bundled


def test_a_collection_offers_what_arrives_beside_the_bundled_models(published, tiny_library, other_darcy):
    collection = Collection(other_darcy)
    assert collection.manifest() == other_darcy.manifest()
    arrival = collection.follow(REPO)
    assert arrival.ended.wait(20)
    assert (arrival.state, arrival.sentence) == ("ready", "")
    assert len(collection.manifest()) == 2 + len(tiny_library.manifest())
    here = ["base", "pirf", *GUIDANCE]
    assert collection.methods("darcy", 16) == [*here, "base@owner/models", "pirf@owner/models"]
    assert collection.load("darcy", "cocogen", 16).denoiser.base is collection.load("darcy", "base", 16).denoiser
    result = last(compare(collection, "darcy", ["base", f"pirf@{REPO}"], 2, 1, 0))
    assert [r.method for r in result.results] == ["base", f"pirf@{REPO}"]
    theirs = last(compare(tiny_library, "darcy", ["pirf"], 2, 1, 0)).results[0].row["residual_rms"]
    assert result.results[1].row["residual_rms"] == pytest.approx(theirs)


@pytest.mark.parametrize("method", ["pirf@home", "@", "pirf@owner/models"])
def test_a_method_s_own_name_may_hold_an_at_sign(published, tiny_library, tmp_path, method):
    model = tiny_denoiser("darcy")
    save_checkpoint(tmp_path / "at.safetensors", model, info_of(model, "darcy", method))
    here = Library(tmp_path)
    here.write_manifest()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    published.add(REPO, files)
    there = Collection(Library(tmp_path / "nothing"))
    there.take(fetch(REPO))
    assert there.load("darcy", f"{method}@{REPO}", 16).info.method == f"{method}@{REPO}"
    assert Collection(here).load("darcy", method, 16).info.method == method


def test_the_same_file_from_two_places_is_one_model(published, tiny_library):
    collection = Collection(tiny_library)
    assert collection.follow(REPO).ended.wait(20)
    entries = collection.manifest()
    assert [e["method"] for e in entries] == [e["method"] for e in tiny_library.manifest()]
    assert all(e["source"].startswith("bundled, owner/models@") for e in entries)


def test_a_repository_that_cannot_be_had_leaves_the_bundled_models_alone(published, tiny_library, monkeypatch, caplog):
    published.fault("/api/", status=500, times=1)
    monkeypatch.setattr("pirf_app.hub.collection.AGAIN", (0.2,))
    collection, go = Collection(tiny_library), threading.Event()

    def fetch_later(*arguments, **options):
        go.wait(20)
        return fetch(*arguments, **options)

    taken = threading.Event()
    monkeypatch.setattr("pirf_app.hub.collection.fetch", fetch_later)
    monkeypatch.setattr(collection, "take", lambda snapshot: (Collection.take(collection, snapshot), taken.set())[0])
    with caplog.at_level(logging.WARNING):
        arrival = collection.follow(REPO)
        assert last(compare(collection, "darcy", ["base"], 2, 1, 0)).results
        assert arrival.state == "fetching"  # nobody has waited for it
        go.set()
        assert arrival.ended.wait(20)
        assert "try again later; the bundled models are not affected" in caplog.text
        assert taken.wait(20)  # it was asked for again
    assert collection.parts
    assert TOKEN not in caplog.text


def test_a_tuned_model_may_continue_a_bundled_one(hub_here, tiny_library, tmp_path):
    entry = next(e for e in tiny_library.manifest() if e["name"] == "darcy-16-pirf")
    path = tiny_library.folder / entry["file"]
    hub_here.add(REPO, {"manifest.json": json.dumps({"models": [entry]}).encode(), path.name: path.read_bytes()})
    found = HubLibrary(fetch(REPO), tiny_library)
    assert found.problems == []
    assert found.load("darcy", "pirf", 16).info.parent == entry["parent"]
    assert HubLibrary(fetch(REPO), Library(tmp_path)).manifest() == []


def test_one_run_is_published_with_its_parent_and_a_card(hub_here, tiny_library, tmp_path):
    mine = tmp_path / "mine.safetensors"
    shutil.copy(tiny_library.folder / "darcy-16-pirf.safetensors", mine)
    send(run_plan(mine, tiny_library, "stranger/run", "my run"), token="hf_stranger")
    found = HubLibrary(fetch("stranger/run"), Library(tmp_path / "none"))
    assert [e["method"] for e in found.manifest()] == ["base", "pirf"]
    card = ModelCard(hub_here.repos["model", "stranger/run"].files["README.md"].decode())
    assert card.data.license == "mit"
    assert "my run" in card.text
    with pytest.raises(HubError, match="write access"):
        send(run_plan(mine, tiny_library, "owner/run", "my run"), token="hf_stranger")


@pytest.mark.parametrize("name", ["darcy-16-base", "Darcy-16-BASE", "my + run", "README", "é"])
def test_what_is_published_under_any_name_comes_back(hub_here, tiny_library, tmp_path, name):
    mine = shutil.copy(tiny_library.folder / "darcy-16-pirf.safetensors", tmp_path / "mine.safetensors")
    rewrite(mine, method="../odd name\n", figures={"residual_rms": float("nan"), "note": "good", "steps": 10})
    send(run_plan(mine, tiny_library, "owner/run", name))
    found = HubLibrary(fetch("owner/run"), Library(tmp_path / "none"))
    assert found.problems == []
    assert [(e["name"], e["figures"]) for e in found.manifest()] == [
        ("darcy-16-base", {"residual_rms": 1.5}), (name, {"steps": 10})
    ]  # fmt: skip
    assert b"# PIRF checkpoints" in hub_here.repos["model", "owner/run"].files["README.md"]


def test_a_run_on_a_model_of_one_s_own_is_published_with_that_model(hub_here, tiny_library, tmp_path):
    models = Visitors(Library(tmp_path / "nothing")).of("a").models
    models.add(tiny_library.folder / "darcy-16-base.safetensors", "my base")
    mine = models.add(tiny_library.folder / "darcy-16-pirf.safetensors", "my run")
    send(run_plan(mine.path, models, "owner/run", mine.name))
    found = HubLibrary(fetch("owner/run"), Library(tmp_path / "none"))
    assert (found.problems, [e["method"] for e in found.manifest()]) == ([], ["base", "pirf"])


def test_a_run_on_a_fetched_model_is_published_with_that_model(published, tiny_library, other_darcy):
    """Not with the bundled file of the same name, whose hash is another."""
    collection = Collection(other_darcy)
    collection.take(fetch(REPO))
    mine = tiny_library.folder / "darcy-16-pirf.safetensors"
    send(run_plan(mine, collection, "stranger/run", "my run"), token="hf_stranger")
    found = HubLibrary(fetch("stranger/run"), Library(tiny_library.folder / "none"))
    assert found.problems == []
    assert [(e["method"], e["sha256"]) for e in found.manifest()] == [
        (e["method"], e["sha256"]) for e in tiny_library.manifest() if e["pde"] == "darcy"
    ]


def test_publishing_is_refused_in_words(hub_here, plan, monkeypatch, caplog):
    for status, words in ((401, "token is not valid"), (429, "too many requests"), (500, "problem of its own")):
        hub_here.faults.clear()
        hub_here.fault("POST", status=status)
        with pytest.raises(HubError, match=words) as error:
            send(plan)
        assert TOKEN not in str(error.value)
    hub_here.faults.clear()
    hub_here.fault("PUT /lfs", status=429, headers={"Retry-After": "300"})  # of the weights, of which there are several
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with caplog.at_level(logging.WARNING), pytest.raises(HubError, match=r"\(429\): try again in 300 s"):
        send(plan)
    assert (slept, len(hub_here.asked("PUT /lfs"))) == ([], 1)
    assert hub_here.address not in caplog.text
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(publish, "get_token", lambda: None)
    with pytest.raises(HubError, match="needs a Hugging Face token"):
        send(plan)


def test_the_card_of_a_repository_carries_the_benchmark_as_metadata(library):
    report = json.loads(REPORT.read_text())
    plan = publish_plan(library, "me/pirf", report)
    card = ModelCard(plan.files["README.md"].decode())
    assert (card.data.license, card.data.library_name) == ("mit", "pirf")
    assert "physics" in card.data.tags
    rows = [row for row in report["rows"] if (row["pde"], row["method"], row["steps"]) == ("darcy", "pirf", 10)]
    assert f"{rows[0]['residual_rms']:.3g}" in card.text
    assert "solver data" in card.text
    results = card.data.eval_results or model_index_to_eval_results(card.data["model-index"])[1]
    assert "residual_rms" in {result.metric_type for result in results}
    names = {path for path in plan.files if path.endswith(".safetensors")}
    assert names == {entry["file"] for entry in library.manifest()}


def test_a_dry_run_says_what_would_go_where_and_asks_nothing(hub_here, tiny_library, capsys, monkeypatch):
    monkeypatch.setattr(hub, "Library", lambda: tiny_library)
    assert run("models", "publish", "--repo", "me/pirf", "--dry-run") == 0
    out = capsys.readouterr().out
    for entry in tiny_library.manifest():
        assert re.search(rf"^{entry['file']} +{entry['size']:,} bytes$", out, re.MULTILINE)
    assert run("deploy", "--space", "me/pirf", "--hardware", "zero-a10g", "--models", REPO, "--dry-run") == 0
    out = capsys.readouterr().out
    for line in ("app.py", "pirf_app/ui/page.py", "checkpoints/manifest.json", "assets/first_view.npz"):
        assert f"\n{line} " in f"\n{out}"
    assert f"variable PIRF_MODEL_REPO = {REPO}" in out
    assert "hardware zero-a10g" in out
    assert hub_here.requests == []


def test_nothing_that_is_no_part_of_the_app_goes_to_a_space():
    plan = deploy_plan("me/pirf", models=f"{REPO}@main")
    names = set(plan.files)
    assert not [
        n for n in names if n.startswith(("tests", ".", "pyproject", "CHANGELOG")) or "/." in n or "__pycache__" in n
    ]
    assert "requirements-dev.txt" not in names
    card = SpaceCard(plan.files["README.md"].decode())
    data = card.data.to_dict()
    pins = dict(line.split("==") for line in (publish.ROOT / "requirements.txt").read_text().split())
    assert data["sdk_version"] == pins["gradio[oauth]"]
    assert (data["sdk"], data["app_file"], data["python_version"]) == ("gradio", "app.py", "3.12")
    assert data["models"] == data["preload_from_hub"] == [REPO]
    assert b"&id" not in plan.files["README.md"]
    assert data["hf_oauth"] is True
    assert data["hf_oauth_scopes"] == ["contribute-repos"]
    assert data["suggested_hardware"] in publish.HARDWARE
    assert len(data["short_description"]) <= 60
    assert data["thumbnail"].endswith(publish.THUMBNAIL)
    assert publish.THUMBNAIL in names
    for picture in publish.PICTURE.findall(card.text):
        assert picture in names
    assert "models" not in SpaceCard(deploy_plan("me/pirf").files["README.md"].decode()).data.to_dict()


def test_front_matter_that_is_none_is_refused():
    with pytest.raises(InputError, match="front matter of README.md"):
        space_readme("---\ntitle: [\n---\n", "me/pirf", None, None, set())


def test_a_space_is_created_and_then_updated(hub_here):
    send(deploy_plan("owner/app", hardware="cpu-basic", models=REPO))
    space = hub_here.repos["space", "owner/app"]
    assert space.created["sdk"] == "gradio"
    assert (space.hardware, space.variables) == ("cpu-basic", {"PIRF_MODEL_REPO": REPO})
    space.commit(space.files | {"pirf_app/old.py": b"", "notes.txt": b"by hand"})
    send(deploy_plan("owner/app", hardware="zero-a10g", models="owner/other"))
    assert (space.hardware, space.variables) == ("zero-a10g", {"PIRF_MODEL_REPO": "owner/other"})
    assert "pirf_app/old.py" not in space.files
    assert space.files["notes.txt"] == b"by hand"
    assert torch.__version__.split("+")[0] in space.files["requirements.txt"].decode()
