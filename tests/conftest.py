"""What several test modules share: libraries of checkpoints, a Hub on loopback, and the app on a free port."""

import os
import shutil
import socket
from pathlib import Path

if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: processes would fight over the cores

import huggingface_hub
import pytest
from browsing import browser, visit, visitor  # noqa: F401 - fixtures
from hub_server import HubServer
from huggingface_hub import constants
from tiny import HANDOVER, info_of, tiny_denoiser, tuned_from
from torch import Tensor

from pirf_app.cli import finetune as cli_finetune
from pirf_app.cli import main as cli
from pirf_app.cli import models as cli_models
from pirf_app.evaluation import statistics
from pirf_app.evaluation.exports import write_first_view
from pirf_app.hub.publish import publish_plan
from pirf_app.models.checkpoint import save_checkpoint
from pirf_app.models.library import BUNDLED, Library
from pirf_app.pdes import get_pde, pde_names, vorticity

TOKEN = "hf_writer"  # of the user "owner" of the Hub on loopback
REPO = "owner/models"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def _float32():
    """Models compute in float32 on every machine, so that tolerances mean the same everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIRF_BFLOAT16", "0")
        yield


_flows: dict[tuple, Tensor] = {}


@pytest.fixture(scope="module")
def quick_data():
    """Kolmogorov flow without the long way to its steady regime, each trajectory computed once for all modules, and a
    training pool of two trajectories: for tests of what is done with data, not of the data."""
    flow = type(get_pde("kolmogorov"))
    real = flow.generate

    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        self.check_request(n, resolution, seed)
        key = (resolution, seed, self.own_parameters)
        if key not in _flows or len(_flows[key]) < n:
            _flows[key] = real(self, n, resolution, seed)
        return _flows[key][:n].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vorticity, "SPIN_UP", 4)
        patch.setattr(flow, "generate", generate)
        patch.setattr(flow, "training_pool", 64)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A base and a tuned 16x16 checkpoint for every PDE, and their manifest."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in pde_names():
        model = tiny_denoiser(name)
        sha256 = save_checkpoint(folder / f"{name}-16-base.safetensors", model, info_of(model, name))
        info = info_of(model, name, "pirf", parent=sha256, handover=HANDOVER)
        save_checkpoint(folder / f"{name}-16-pirf.safetensors", tuned_from(model), info)
    Library(folder).write_manifest()
    return folder


@pytest.fixture(scope="module")
def tiny_library(tiny_folder) -> Library:
    """`tiny_folder` in place of the bundled checkpoints: 16x16 is every PDE's default resolution meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name in pde_names():
            patch.setattr(type(get_pde(name)), "default_resolution", 16)
        yield Library(tiny_folder)


@pytest.fixture
def folder(tiny_folder) -> Path:
    return tiny_folder


@pytest.fixture
def small_models(folder, tmp_path, monkeypatch):
    """The command line on `tiny_folder` in place of the bundled checkpoints, writing to `tmp_path`."""
    for name in pde_names():
        monkeypatch.setattr(get_pde(name), "default_resolution", 16, raising=False)
    for module in (cli, cli_finetune, cli_models):
        monkeypatch.setattr(module, "Library", lambda: Library(folder))
    monkeypatch.setattr(statistics, "REFERENCE_SAMPLES", 64)
    statistics.reference.cache_clear()
    monkeypatch.chdir(tmp_path)
    yield
    statistics.reference.cache_clear()


@pytest.fixture(scope="session")
def library() -> Library:
    library = Library(Path(os.environ.get("PIRF_CHECKPOINTS") or BUNDLED))
    if not library.manifest():
        pytest.skip("no checkpoints are bundled yet")
    return library


@pytest.fixture(scope="session")
def first_view(library, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("assets") / "first_view.npz"
    write_first_view(library, path, steps=5, n=2)
    return path


@pytest.fixture(scope="session")
def server(library, first_view):
    """The address of a running app."""
    from pirf_app.ui.page import build, launch

    demo = build(library, first_view)
    _, url, _ = launch(demo, server_port=free_port(), prevent_thread_lock=True, quiet=True)
    yield url.rstrip("/")
    demo.close(verbose=False)


LANES = {}  # of the servers that run, by address


@pytest.fixture(scope="module")
def tiny_server(tiny_library, tmp_path_factory):
    """The address of a running app with `tiny_library`."""
    from pirf_app.ui.page import build, launch
    from pirf_app.ui.serving.lanes import Lanes

    lanes = Lanes()
    demo = build(tiny_library, tmp_path_factory.mktemp("nothing") / "missing.npz", lanes)
    _, url, _ = launch(demo, server_port=free_port(), prevent_thread_lock=True, quiet=True)
    LANES[url.rstrip("/")] = lanes
    yield url.rstrip("/")
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with a base and a tuned checkpoint for Darcy and a base one for Poisson, all 16x16, and its manifest."""
    folder = tmp_path_factory.mktemp("library")
    for pde in ("darcy", "poisson"):
        model = tiny_denoiser(pde)
        save_checkpoint(folder / f"{pde}-16-base.safetensors", model, info_of(model, pde))
    library = Library(folder)
    library.write_manifest()
    base = library.load("darcy", "base", 16)
    info = info_of(base.denoiser, "darcy", "pirf", parent=base.sha256, handover=HANDOVER)
    save_checkpoint(folder / "darcy-16-pirf.safetensors", tuned_from(base.denoiser), info)
    library.write_manifest()
    return folder


@pytest.fixture
def library_copy(template, tmp_path) -> Library:
    """A copy of the template, to spoil."""
    return Library(shutil.copytree(template, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def base_file(library_copy):
    return library_copy.folder / "darcy-16-base.safetensors"


@pytest.fixture
def hub_here(monkeypatch, tmp_path):
    """A Hub on loopback that the client talks to, as its user "owner", with an empty cache."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        huggingface_hub.utils._http.close_session()
        yield server


@pytest.fixture(scope="module")
def plan(tiny_library):
    return publish_plan(tiny_library, REPO, None)


@pytest.fixture
def published(hub_here, plan):
    """A Hub that holds what would be published of the tiny checkpoints."""
    hub_here.add(REPO, {k: v if isinstance(v, bytes) else v.read_bytes() for k, v in plan.files.items()})
    return hub_here


@pytest.fixture
def visitors(tiny_library):
    from pirf_app.ui.serving.visitors import Visitors

    return Visitors(tiny_library)


@pytest.fixture
def tuned(tiny_folder):
    return tiny_folder / "darcy-16-pirf.safetensors"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With PIRF_REQUIRE_BROWSER set, as in continuous integration, a browser test that would be skipped fails."""
    report = yield
    if report.skipped and os.environ.get("PIRF_REQUIRE_BROWSER") and item.get_closest_marker("ui"):
        report.outcome, report.longrepr = "failed", f"skipped, but PIRF_REQUIRE_BROWSER is set: {report.longrepr[-1]}"
    return report
