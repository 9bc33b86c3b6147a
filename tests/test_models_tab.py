"""The Models tab without a browser: what its handlers answer, with a Hub on loopback."""

import json
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import REPO
from tiny_runs import tiny_run

from pirf_app.hub.collection import Collection
from pirf_app.models.library import Library, entry_of
from pirf_app.ui.models import tab as models_tab
from pirf_app.ui.models.tab import ModelsTab
from pirf_app.ui.models.table import row
from pirf_app.ui.serving import own_models as own
from pirf_app.ui.serving.lanes import Lanes
from pirf_app.ui.serving.own_models import OwnModel
from pirf_app.ui.serving.server import Server
from pirf_app.ui.serving.visitors import Visitors

VISITOR = SimpleNamespace(session_hash="s")


@pytest.fixture
def tab(hub_here, tiny_library, tmp_path) -> ModelsTab:
    """Over a library without models, with a repository of those of `tiny_library`: one has an odd name."""
    entries = tiny_library.manifest()
    entries[0]["name"] = "<A base> model, " + "x" * 90
    files = {e["file"]: (tiny_library.folder / e["file"]).read_bytes() for e in entries}
    hub_here.add(REPO, files | {"manifest.json": json.dumps({"models": entries}).encode()})
    collection = Collection(Library(tmp_path / "nothing"))
    with gr.Blocks():
        return ModelsTab(Server(collection, Visitors(collection), Lanes()))


def fetched(tab: ModelsTab) -> tuple[str, list[str]]:
    """What is said after a repository was asked for, and the names of the visitor's models then."""
    said = list(tab.on_fetch(REPO, VISITOR))[-1][0]
    assert [tab.places.acquire(blocking=False) for _ in range(models_tab.AT_ONCE)] == [True] * models_tab.AT_ONCE
    for _ in range(models_tab.AT_ONCE):
        tab.places.release()
    return said, [model.name for model in tab.visitor(VISITOR).models.mine()]


def test_a_name_that_is_not_fit_is_changed(tab, tiny_library):
    said, names = fetched(tab)
    assert "problem" not in said
    assert len(names) == len(tiny_library.manifest())
    assert any(name.startswith("A base- model- xxx") for name in names)


def test_without_room_one_sentence_says_so(tab, monkeypatch):
    monkeypatch.setattr(own, "MAX_MODELS", 1)
    said, names = fetched(tab)
    assert len(names) == 1
    assert said.count("the most that is kept here") == 1


def test_one_file_that_cannot_be_added_does_not_stop_the_others(tab, tiny_library, monkeypatch):
    real = own.load_checkpoint

    def load(path, *rest):
        if "burgers-16-base" in str(path):
            raise own.InputError("burgers is gone")
        return real(path, *rest)

    monkeypatch.setattr(own, "load_checkpoint", load)
    said, names = fetched(tab)
    assert "urgers is gone" in said
    assert len(names) == len(tiny_library.manifest()) - 2  # without the one that is tuned from it


def test_a_cache_in_which_no_room_can_be_made(tab, monkeypatch):
    def fail(*_):
        raise OSError(30, "Read-only file system", "/data/secret")

    monkeypatch.setattr(models_tab, "prune", fail)
    said, names = fetched(tab)
    assert "cannot make room for repositories just now (read-only file system)" in said
    assert (names, tab.fetching) == ([], 0)


def test_a_model_that_is_chosen_stays_so_while_others_come(tab):
    _, names = fetched(tab)
    assert tab.on_clock(names[1], VISITOR)[-1]["value"] == names[1]
    assert tab.on_clock("gone", VISITOR)[-1]["value"] == tab.on_clock(None, VISITOR)[-1]["value"] == names[-1]


def test_a_run_s_model_has_the_figures_that_the_run_measured(tiny_library, tmp_path):
    run = tiny_run("pirf", updates=2, validate_every=1)
    list(run.run())
    for which in ("last", "best"):
        info = run.info(which=which)
        entry = OwnModel("mine", tmp_path, "", 1, info).entry
        check = run.checks[which]
        assert entry["figures"] == {k: check[k] for k in ("residual_rms", "solve_error_median")}
        assert "–" not in row(entry, {info.parent: "base"})
    odd = replace(info, recipe={"checks": {"last": 5}, "state": "last"})
    assert OwnModel("mine", tmp_path, "", 1, odd).entry["figures"] == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1", True, None, []])
def test_a_figure_that_is_none(tab, tiny_library, value):
    entry = tiny_library.manifest()[0]
    assert row(entry | {"figures": {"residual_rms": value}}, {}).count("<td>–</td>") == 3
    model = tiny_library.load(entry["pde"], "base")
    assert value not in entry_of(model.info, "", 0, figures={"x": value})["figures"].values() or value is None
