"""Tuned checkpoints of one's own: where what they continue is found, by every command that reads one."""

import json
import os
import shutil

import pytest
from conftest import REPO
from spoiled import rewrite
from terminal import refused, run

from pirf_app.hub.collection import HubLibrary
from pirf_app.hub.fetch import fetch
from pirf_app.hub.publish import publish_plan, run_plan, send
from pirf_app.models import library as library_module
from pirf_app.models.checkpoint import file_sha256, read_info
from pirf_app.models.library import Library
from pirf_app.pdes import get_pde, pde_names
from pirf_app.ui.serving.offered import problems

pytestmark = pytest.mark.usefixtures("quick_data")
BASE, TUNED = "base.safetensors", "tuned.safetensors"
QUICK = ["--updates", 1, "--pool", 4, "--batch", 2, "--validation", 2, "--pool-steps", 3]
COMMANDS = {
    "sample": ["sample", "--pde", "poisson", "--steps", 2, "--n", 1, "--method"],
    "evaluate": ["evaluate", "--pde", "poisson", "--steps", 2, "--n", 2, "--methods"],
    "finetune": ["finetune", "--pde", "poisson", *QUICK, "--out", "more.safetensors", "--from"],
    "verify": ["models", "verify"],
}
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def own(tiny_folder, tmp_path, monkeypatch):
    """A folder of one's own, without a manifest: a tuned checkpoint, which nobody else has, and in `apart` its parent;
    the commands run in it."""
    for name in pde_names():
        monkeypatch.setattr(get_pde(name), "default_resolution", 16, raising=False)
    monkeypatch.delenv("PIRF_CHECKPOINTS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apart").mkdir()
    rewrite(shutil.copy(tiny_folder / "poisson-16-pirf.safetensors", TUNED), handover=0.03)
    shutil.copy(tiny_folder / "poisson-16-base.safetensors", f"apart/{BASE}")
    return tmp_path


@every_command
def test_a_parent_is_found_beside_the_file_without_a_manifest(command, own, capsys):
    shutil.copy(f"apart/{BASE}", "of another name.safetensors")
    assert run(*COMMANDS[command], f"./{TUNED}") == 0


@every_command
def test_a_parent_is_named(command, own, tiny_folder, capsys):
    other = tiny_folder / "darcy-16-base.safetensors"
    said = refused(capsys, *COMMANDS[command], f"./{TUNED}")
    assert "put its file beside it, or name it with --parent FILE" in said
    assert "another SHA-256" in refused(capsys, *COMMANDS[command], f"./{TUNED}", "--parent", other)
    assert "must be a base one" in refused(capsys, *COMMANDS[command], f"./{TUNED}", "--parent", TUNED)
    assert "nowhere" in refused(capsys, *COMMANDS[command], f"./{TUNED}", "--parent", "nowhere.safetensors")
    assert run(*COMMANDS[command], f"./{TUNED}", "--parent", other, "--parent", f"apart/{BASE}") == 0


@every_command
def test_a_parent_is_found_in_the_folder_of_checkpoints_or_among_the_bundled(command, own, monkeypatch, capsys):
    Library(own / "apart").write_manifest()
    (own / "empty").mkdir()
    monkeypatch.setenv("PIRF_CHECKPOINTS", "empty")
    refused(capsys, *COMMANDS[command], f"./{TUNED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_module, "BUNDLED", own / "apart")
        assert run(*COMMANDS[command], f"./{TUNED}") == 0
    monkeypatch.setenv("PIRF_CHECKPOINTS", "apart")
    assert run(*COMMANDS[command], f"./{TUNED}") == 0


def test_the_command_that_finetune_prints_names_the_parent(own, capsys):
    assert run(*COMMANDS["finetune"], f"./{TUNED}", "--parent", f"apart/{BASE}") == 0
    printed = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m"))
    assert f"--parent apart/{BASE}" in printed


def test_only_what_can_be_the_parent_is_hashed(own, tiny_folder, monkeypatch):
    """Not files of other networks and equations, tuned ones, or files that are none; and not ever more of them."""
    hashed = []
    monkeypatch.setattr(library_module, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    shutil.copy(f"apart/{BASE}", "z.safetensors")
    shutil.copy(tiny_folder / "darcy-16-base.safetensors", "darcy.safetensors")
    (own / "text.safetensors").write_text("no checkpoint")
    (own / "folder.safetensors").mkdir()
    os.mkfifo("pipe.safetensors")  # nobody writes to it: whoever opens it waits for ever
    shutil.copy(TUNED, "again.safetensors")
    rewrite(shutil.copy(f"apart/{BASE}", own / "a.safetensors"), recipe={})  # the same but for the hash
    assert Library().load_file(own / TUNED).info.method == "pirf"
    assert hashed == ["a.safetensors", "z.safetensors"]
    monkeypatch.setattr(library_module, "LOOKED_AT", 2)
    with pytest.raises(ValueError, match="--parent"):
        Library().load_file(own / TUNED)


def test_files_of_one_s_own_share_the_base_that_they_have_in_common(own):
    """So that what they have in common is computed once."""
    shutil.copy(f"apart/{BASE}", BASE)
    library = Library()
    base, tuned, again = (library.resolve("poisson", f"./{name}") for name in (BASE, TUNED, TUNED))
    assert tuned.denoiser.base is base.denoiser
    assert again is tuned


def test_a_folder_of_one_s_own_gets_a_manifest(own, monkeypatch, capsys):
    shutil.copy(f"apart/{BASE}", BASE)
    (own / "other.safetensors").write_text("of another tool")
    monkeypatch.setenv("PIRF_CHECKPOINTS", str(own))
    assert "models manifest --folder" in refused(capsys, "sample", "--pde", "poisson", "--steps", 2)
    assert run("models", "manifest", "--folder", own) == 0
    out, error = capsys.readouterr()
    assert out.split() == ["base", "tuned"]
    assert "other.safetensors" in error
    entries = json.loads((own / "manifest.json").read_text())["models"]
    assert [(e["file"], e["method"], e["figures"]) for e in entries] == [
        (BASE, "base", {"residual_rms": 1.5}),
        (TUNED, "pirf", {"residual_rms": 1.5}),
    ]  # fmt: skip - its own figures, not those of the bundled checkpoints, which the app's report has
    assert run("models", "list") == 0
    assert capsys.readouterr().out.split()[::4] == ["base", "tuned"]
    for method in ("base", "pirf", "cocogen"):
        assert run("sample", "--pde", "poisson", "--steps", 2, "--n", 1, "--method", method) == 0
    capsys.readouterr()
    assert "there is no folder nowhere" in refused(capsys, "models", "manifest", "--folder", "nowhere")


def test_the_page_takes_a_parent_that_is_bundled_for_one_that_is_here(own, monkeypatch):
    library = Library(own)
    library.write_manifest()
    assert any("parent" in sentence for sentence in problems(library))
    Library(own / "apart").write_manifest()
    monkeypatch.setattr(library_module, "BUNDLED", own / "apart")
    assert problems(Library(own)) == []


def test_what_is_published_has_what_it_continues(own, hub_here):
    """Of a folder whose manifest does not list it, and of a single file."""
    Library(own).write_manifest()
    shutil.copy(f"apart/{BASE}", BASE)  # after the manifest was made
    parent = file_sha256(own / BASE)
    for plan in (publish_plan(Library(own), REPO, None), run_plan(own / TUNED, Library(), REPO, "mine")):
        send(plan)
        found = HubLibrary(fetch(REPO), Library(own / "nothing"))
        assert found.problems == []
        assert {e["method"] for e in found.manifest()} == {"base", "pirf"}
        assert parent in {e["sha256"] for e in found.manifest()}
    (own / BASE).unlink()
    with pytest.raises(ValueError, match="--parent"):
        publish_plan(Library(own), REPO, None)
    named = publish_plan(Library(own).with_parents([own / "apart" / BASE]), REPO, None)
    assert len([name for name in named.files if name.endswith(".safetensors")]) == 2
    assert read_info(own / TUNED).parent == parent
