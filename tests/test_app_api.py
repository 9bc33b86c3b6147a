"""The HTTP API of a running app, through gradio's own client; and links, problems and pictures of the page."""

import io
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from pirf_app.common.checks import InputError
from pirf_app.common.threads import usable_cores
from pirf_app.evaluation.comparison import Settings, compare, last
from pirf_app.evaluation.exports import read_npz
from pirf_app.models.library import BUNDLED, Library
from pirf_app.pdes import get_pde, pde_names
from pirf_app.ui.serving.lanes import Lanes
from pirf_app.ui.serving.offered import warm_up

OFFERED = [name for name in pde_names() if Library(Path(os.environ.get("PIRF_CHECKPOINTS") or BUNDLED)).methods(name)]


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


def test_models_are_those_of_the_manifest(client, library):
    assert client.predict(api_name="/models") == library.manifest()


def test_compare_gives_rows_floors_and_a_sentence(client, library):
    answer = client.predict("poisson", ["base", "pirf"], 3, 2, 5, api_name="/compare")
    assert {"rows", "floors", "sentence", "settings"} <= set(answer)
    assert [row["method"] for row in answer["rows"]] == ["base", "pirf"]
    evaluations = [library.load("poisson", m).info.schedule.with_steps(3).evaluations(3) for m in ("base", "pirf")]
    assert [row["nfe"] for row in answer["rows"]] == evaluations
    assert all(len(row["samples"]["residual_rms"]) == 2 for row in answer["rows"])
    assert answer["sentence"].startswith("PIRF: ")


def test_compare_computes_with_fewer_steps_than_give_samples_and_says_so(client):
    answer = client.predict("darcy", ["base"], 3, 1, 0, api_name="/compare")
    assert answer["settings"]["steps"] == 3
    assert "not converged" in answer["sentence"]


def test_compare_takes_a_schedule_and_the_largest_seed(client):
    answer = client.predict("poisson", ["base"], 2, 1, str(2**63 - 1), 0.1, 40.0, 5, api_name="/compare")
    assert answer["settings"]["seed"] == 2**63 - 1
    assert answer["settings"]["sigma_max"] == 40


def test_a_sweep_is_comparisons_at_several_step_counts(client):
    answer = client.predict("poisson", ["base", "pirf"], "4, 2", 2, 5, api_name="/sweep")
    assert [(row["steps"], row["method"]) for row in answer["rows"]] == [
        (2, "base"), (2, "pirf"), (4, "base"), (4, "pirf"),
    ]  # fmt: skip
    assert answer["settings"]["steps"] == [2, 4]
    assert answer["floors"]["residual_rms"] < answer["rows"][0]["residual_rms"]
    one = client.predict("poisson", ["base", "pirf"], 4, 2, 5, api_name="/compare")
    assert [row["samples"] for row in answer["rows"][2:]] == [row["samples"] for row in one["rows"]]
    assert client.predict("poisson", ["base"], [3], 1, 0, api_name="/sweep")["settings"]["steps"] == [3]


@pytest.mark.parametrize(
    ("steps", "words"),
    [("", "whole numbers"), ("a,b", "whole numbers"), ([], "1 to 8 step counts"), ("2,1", "steps must be")]
    + [(",".join(["5"] * 9), "1 to 8 step counts"), (None, "whole numbers"), ([2.5], "whole numbers")],
)
def test_a_sweep_over_what_are_no_step_counts_is_refused(client, steps, words):
    with pytest.raises(AppError, match=words):
        client.predict("poisson", ["base"], steps, 1, 0, api_name="/sweep")


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
    from pirf_app.ui.page import build
    from pirf_app.ui.serving.offered import problems

    said = problems(damaged)
    assert len(said) == 1
    assert "darcy-64-pirf" in said[0]
    texts = [str(block.value) for block in build(damaged, first_view).blocks.values() if hasattr(block, "value")]
    assert any("darcy-64-pirf" in text.lower() and 'class="problem"' in text for text in texts)
    assert last(compare(damaged, "darcy", ["base"], 2, 1, 0)).results
    with pytest.raises(InputError):
        last(compare(damaged, "darcy", ["base", "pirf"], 2, 1, 0))


def test_the_page_is_built_without_checkpoints_manifest_or_first_view(tmp_path):
    from pirf_app.ui.page import build
    from pirf_app.ui.serving.offered import problems

    assert "no checkpoints" in problems(Library(tmp_path))[0]
    build(Library(tmp_path), tmp_path / "missing.npz")
    (tmp_path / "manifest.json").write_text("{")
    (tmp_path / "first_view.npz").write_bytes(b"PK nonsense")
    build(Library(tmp_path), tmp_path / "first_view.npz")
    assert "manifest" in problems(Library(tmp_path))[0]


def test_links_restore_settings(library):
    from pirf_app.ui.compare.links import from_query, to_query

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


@pytest.mark.parametrize("name", OFFERED)
def test_a_comparison_of_any_benchmark_is_shown_linked_and_exported(library, name, tmp_path):
    from pirf_app.ui.compare.downloads import export
    from pirf_app.ui.compare.links import from_query, to_query
    from pirf_app.ui.drawing import axes as words
    from pirf_app.ui.drawing import html as parts

    pde = get_pde(name)
    comparison = last(compare(library, name, library.methods(name), 2, 1, 0))
    table = parts.table(comparison)
    rows = len(comparison.results) + 1
    assert table.count("<td>periodic</td>") == (0 if name in ("darcy", "helmholtz", "poisson") else rows)
    assert pde.conservation_short in table
    assert pde.conservation in words.equation(pde)
    assert pde.caveat is None or pde.caveat[:20] in words.equation(pde)
    query = dict(part.split("=") for part in to_query(comparison.settings).split("&"))
    assert from_query(library, query, Settings("none", (), 0, 0, 0)) == comparison.settings
    npz, png, csv = (Path(path) for path in export(comparison, tmp_path))
    assert read_npz(npz).to_dict() == comparison.to_dict()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert len(csv.read_text().splitlines()) == rows


def two_rows(name: str):
    """Noise on the scale of a benchmark's data in the place of two methods' samples."""
    from pirf_app.ui.drawing.panels import Shown

    pde = get_pde(name)
    draw = torch.Generator().manual_seed(0)
    fields = pde.denormalise(torch.randn(2, len(pde.channels), 16, 16, generator=draw) / 2)
    fields, residuals, solutions = (list(x.numpy()) for x in (fields, pde.residual(fields), pde.solve(fields)))
    captions = {"difference": ["solve error 1 %"] * 2}
    return pde, Shown(pde, ["Baseline", "PIRF"], fields, residuals, solutions, captions)


@pytest.mark.parametrize("name", pde_names())
def test_the_figure_has_linked_axes_and_one_colour_scale_per_column(name):
    from pirf_app.ui.drawing.figures import plotly_grid, png_grid
    from pirf_app.ui.drawing.panels import grids, still

    pde, shown = two_rows(name)
    views = grids(shown)
    columns = len(views[0].columns)
    assert columns == (1 if pde.view == "frames" else len(pde.channels)) + 3
    figure = json.loads(plotly_grid(views, len(views) - 1).plot)
    layout, traces = figure["layout"], figure["data"]
    assert {trace["type"] for trace in traces} == {"heatmap"}
    for view in layout["meta"]["views"]:  # one map on every panel, and one scale for the panels of a column
        seen = [trace for trace, visible in zip(traces, view["visible"], strict=True) if visible]
        assert sorted(trace["xaxis"] for trace in seen) == sorted({trace["xaxis"] for trace in traces})
        assert len(seen) == 2 * columns
        assert len({trace["coloraxis"] for trace in seen}) == columns
    assert [trace["visible"] for trace in traces] == layout["meta"]["views"][-1]["visible"]
    axes = [axis for key, axis in layout.items() if key.startswith(("xaxis", "yaxis")) and key[1:] != "axis"]
    assert len(axes) == 2 * (2 * columns - 1)
    assert all(axis["matches"] in "xy" for axis in axes)
    assert layout["xaxis"]["ticktext"][1] == pde.axes[1]
    assert layout["yaxis"]["ticktext"][1] == pde.axes[0]
    assert layout["yaxis"]["range"][0] < layout["yaxis"]["range"][1]
    for key, axis in layout.items():
        if key.startswith("coloraxis"):
            assert axis["cmin"] < axis["cmax"]
            assert axis["colorbar"]["title"]["text"]
    assert views[-1].columns[-1].low == -views[-1].columns[-1].high
    assert png_grid(still(shown), "heading", "sentence").startswith(b"\x89PNG")


def test_frames_share_their_scales_and_change_is_counted_from_the_first():
    from pirf_app.ui.drawing.panels import grids, view_number

    pde, shown = two_rows("kolmogorov")
    views = grids(shown)
    assert len(views) == 6
    field, change = views[view_number(pde, 2, False)], views[view_number(pde, 2, True)]
    first = views[view_number(pde, 0, False)]
    assert first.columns[0].maps[0].tolist() == shown.fields[0][0].tolist()
    assert (change.columns[0].maps[1] == shown.fields[1][2] - shown.fields[1][0]).all()
    assert (change.columns[2].maps[1] == shown.solutions[1][2] - shown.solutions[1][0]).all()
    for i in range(4):
        assert (first.columns[i].low, first.columns[i].high) == (field.columns[i].low, field.columns[i].high)
        assert change.columns[i].high > 0
    assert change.columns[0].high != field.columns[0].high
    assert all(view.columns[1].maps[0] is field.columns[1].maps[0] for view in views)  # one residual for all frames
    assert "frame 1" in field.columns[2].captions[0]
    assert "t = 0" in grids(two_rows("burgers")[1])[0].columns[2].captions[0]


@pytest.mark.parametrize("name", pde_names())
def test_every_benchmark_has_a_small_picture_in_the_selector(name):
    from pirf_app.ui.drawing import thumbnails

    path = thumbnails.FOLDER / f"{name}.png"
    assert path.stat().st_size < 15_000
    assert Image.open(path).size == (thumbnails.PIXELS, thumbnails.PIXELS)
    assert f'"{get_pde(name).title}-radio-label"' in thumbnails.css()
    if name == "poisson":
        drawn = Image.open(io.BytesIO(thumbnails.draw(get_pde(name)))).convert("RGB")
        difference = torch.tensor(list(drawn.tobytes())) - torch.tensor(list(Image.open(path).convert("RGB").tobytes()))
        assert difference.float().abs().mean() < 1


def test_one_bad_file_does_not_keep_the_others_from_being_loaded_ahead(tiny_folder, tmp_path, caplog):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "models"))
    models = Library(folder)
    bad, *others = [entry["file"] for entry in models.manifest() if entry["method"] == "base"]
    (folder / bad).write_bytes(b"nonsense")
    loaded, load = [], models.load

    def watched(*asked):
        loaded.append(load(*asked).info.pde)

    models.load = watched
    warm_up(models, 0, Lanes())
    for thread in threading.enumerate():
        if thread.name == "warm-up":
            thread.join()
    assert set(loaded) == {file.partition("-")[0] for file in others}
    assert bad in caplog.text


def test_the_app_takes_no_more_cores_than_it_may(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    every = usable_cores()
    assert 1 <= every <= os.cpu_count()
    for asked, used in (("1", 1), ("999", every), ("0", 1), ("many", every)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert usable_cores() == used
