"""What several test modules share: a library of checkpoints, and the app on a free port of this machine."""

import os
import socket
from pathlib import Path

import pytest

from pirf_app.checkpoints import BUNDLED, Library
from pirf_app.diffusion import denoiser
from pirf_app.exports import write_first_view


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def _float32():
    """Models compute in float32 on every machine, so that tolerances mean the same everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoiser, "native_bfloat16", lambda device="cpu": False)
        yield


@pytest.fixture(scope="session")
def library() -> Library:
    library = Library(Path(os.environ.get("PIRF_CHECKPOINTS") or BUNDLED))
    if not library.manifest():
        pytest.skip("no checkpoints are bundled yet")
    return library


@pytest.fixture(scope="session")
def first_view(library, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("assets") / "first_view.npz"
    write_first_view(library, path, steps=3, n=2)
    return path


@pytest.fixture(scope="session")
def server(library, first_view):
    """The address of a running app."""
    from pirf_app.ui.page import build, launch

    demo = build(library, first_view)
    _, url, _ = launch(demo, server_port=free_port(), prevent_thread_lock=True, quiet=True)
    yield url.rstrip("/")
    demo.close(verbose=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With PIRF_REQUIRE_BROWSER set, as in continuous integration, a browser test that would be skipped fails."""
    report = yield
    if report.skipped and os.environ.get("PIRF_REQUIRE_BROWSER") and item.get_closest_marker("ui"):
        report.outcome, report.longrepr = "failed", f"skipped, but PIRF_REQUIRE_BROWSER is set: {report.longrepr[-1]}"
    return report
