"""The HTTP API of a running app, through gradio's own client; and links, problems and pictures of the page."""

import json
import shutil

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from pirf_app.checkpoints import Library
from pirf_app.comparison import Settings, compare, last
from pirf_app.pdes.base import InputError


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


def test_models_are_those_of_the_manifest(client, library):
    assert client.predict(api_name="/models") == library.manifest()


def test_compare_gives_rows_floors_and_a_sentence(client):
    answer = client.predict("poisson", ["base", "pirf"], 3, 2, 5, api_name="/compare")
    assert {"rows", "floors", "sentence", "settings"} <= set(answer)
    assert [row["method"] for row in answer["rows"]] == ["base", "pirf"]
    assert [row["nfe"] for row in answer["rows"]] == [5, 5]
    assert all(len(row["samples"]["residual_rms"]) == 2 for row in answer["rows"])
    assert answer["sentence"].startswith("PIRF: ")


def test_compare_takes_a_schedule_and_the_largest_seed(client):
    answer = client.predict("poisson", ["base"], 2, 1, str(2**63 - 1), 0.1, 40.0, 5, api_name="/compare")
    assert answer["settings"]["seed"] == 2**63 - 1
    assert answer["settings"]["sigma_max"] == 40


def test_compare_repeats_itself(client):
    first, second = (client.predict("poisson", ["base"], 2, 1, 9, api_name="/compare") for _ in range(2))
    assert first["rows"][0]["samples"] == second["rows"][0]["samples"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("heat", ["base"], 5, 1, 0), "unknown PDE"),
        (("darcy", ["magic"], 5, 1, 0), "available are"),
        (("darcy", [], 5, 1, 0), "at least one method"),
        (("darcy", ["base"], 0, 1, 0), "steps must be"),
        (("darcy", ["base"], 1e9, 1, 0), "steps must be"),
        (("darcy", ["base"], "ten", 1, 0), "steps must be"),
        (("darcy", ["base"], None, 1, 0), "steps must be"),
        (("darcy", ["base"], 5, 0, 0), "number of samples"),
        (("darcy", ["base"], 5, 1, 2**63), "seed must be"),
        (("darcy", ["base"], 5, 1, 0, "low"), "sigma_min must be"),
    ],
)
def test_bad_input_is_answered_with_one_sentence_and_the_app_lives(client, arguments, words):
    with pytest.raises(AppError, match=words):
        client.predict(*arguments, api_name="/compare")
    assert client.predict(api_name="/models")


def test_only_the_api_is_public(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/compare", "/models"} <= set(named)
    assert not [name for name in named if name.startswith("/on_")]


@pytest.fixture
def damaged(library, tmp_path):
    """A copy of the library in which one tuned checkpoint is cut short."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(library.folder, folder)
    path = folder / library.find("darcy", "pirf")["file"]
    path.write_bytes(path.read_bytes()[:-100])
    return Library(folder)


def test_a_damaged_checkpoint_is_named_and_the_others_work(damaged, first_view):
    from pirf_app.ui.models import problems
    from pirf_app.ui.page import build

    said = problems(damaged)
    assert len(said) == 1
    assert "darcy-64-pirf" in said[0]
    texts = [str(block.value) for block in build(damaged, first_view).blocks.values() if hasattr(block, "value")]
    assert any("darcy-64-pirf" in text.lower() and 'class="problem"' in text for text in texts)
    assert last(compare(damaged, "darcy", ["base"], 2, 1, 0)).results
    with pytest.raises(InputError):
        last(compare(damaged, "darcy", ["base", "pirf"], 2, 1, 0))


def test_the_page_is_built_without_checkpoints_manifest_or_first_view(tmp_path):
    from pirf_app.ui.models import problems
    from pirf_app.ui.page import build

    assert "no checkpoints" in problems(Library(tmp_path))[0]
    build(Library(tmp_path), tmp_path / "missing.npz")
    (tmp_path / "manifest.json").write_text("{")
    (tmp_path / "first_view.npz").write_bytes(b"PK nonsense")
    build(Library(tmp_path), tmp_path / "first_view.npz")
    assert "manifest" in problems(Library(tmp_path))[0]


def test_links_restore_settings(library):
    from pirf_app.ui.links import from_query, to_query

    settings = Settings("poisson", ("base", "pirf"), 20, 2, 2**63 - 1, sigma_min=0.05)
    query = dict(part.split("=") for part in to_query(settings).split("&"))
    assert from_query(library, query, Settings("darcy", ("base",), 10, 4, 0)) == settings
    for wrong in (
        {"steps": "x"},
        {"steps": "nan"},
        {"seed": "1e400"},
        {"pde": "heat"},
        {"methods": "a,b"},
        {"n": "99"},
    ):
        with pytest.raises(InputError):
            from_query(library, wrong, settings)


def test_the_figure_has_linked_axes_and_one_colour_scale_per_column(library):
    from pirf_app.ui.figures import plotly_grid, png_grid
    from pirf_app.ui.panels import comparison_grid

    comparison = last(compare(library, "darcy", ["base", "pirf"], 2, 1, 0))
    grid = comparison_grid(comparison, 0)
    assert [len(c.maps) for c in grid.columns] == [2] * 5
    figure = json.loads(plotly_grid(grid).plot)
    assert len(figure["data"]) == 10
    assert {trace["type"] for trace in figure["data"]} == {"heatmap"}
    assert len({trace["coloraxis"] for trace in figure["data"]}) == 5
    axes = [axis for name, axis in figure["layout"].items() if name.startswith("xaxis") and name != "xaxis"]
    assert len(axes) == 9
    assert all(axis["matches"] == "x" for axis in axes)
    for column in grid.columns:
        if column.title.startswith(("u −", "log")) is False:
            assert column.low < column.high
    assert grid.columns[-1].low == -grid.columns[-1].high
    assert png_grid(grid, "heading", "sentence").startswith(b"\x89PNG")
