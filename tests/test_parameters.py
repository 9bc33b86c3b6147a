"""Numbers in an equation that belong to a checkpoint: a Reynolds number that is not the grid's own is used for every
figure of that checkpoint, and told wherever it is named."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pde_data import every_pde
from safetensors import safe_open
from spoiled import no_parent, refused, rewrite
from terminal import refused as refused_command
from terminal import run
from tiny import HANDOVER, info_of, tiny_denoiser, tuned_from
from tiny_runs import SMALL

from pirf_app.common.checks import InputError
from pirf_app.evaluation import figures, statistics
from pirf_app.evaluation.comparison import Preview, Settings, compare, data_floors, last, measure
from pirf_app.evaluation.figures import evaluate, floors, residual_rms
from pirf_app.evaluation.report import format_table, merge
from pirf_app.hub import cards
from pirf_app.methods.pidm import PidmConfig, PidmTuning
from pirf_app.methods.pirf import PirfTuning
from pirf_app.models.checkpoint import KEY, load_checkpoint, read_info, save_checkpoint
from pirf_app.models.library import Library
from pirf_app.pdes import get_pde
from pirf_app.pdes.vorticity import FORCING
from pirf_app.training.pretraining import PretrainConfig, Pretraining, network_for
from pirf_app.ui.compare.preview import Sketch
from pirf_app.ui.drawing import html
from pirf_app.ui.models import table
from pirf_app.ui.train.prepare import references
from pirf_app.ui.train.run_html import samples_grid

RE = {"reynolds": 1000.0}
pytestmark = pytest.mark.usefixtures("quick_data")


def flow(n: int = 4, resolution: int = 16) -> torch.Tensor:
    """Solver data at Re = 1000."""
    return get_pde("kolmogorov", RE).generate(n, resolution, 3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Library:
    """A Kolmogorov baseline at Re = 1000, and what was tuned from it."""
    folder, model = tmp_path_factory.mktemp("re1000"), tiny_denoiser("kolmogorov")
    base = save_checkpoint(folder / "re1000.safetensors", model, info_of(model, "kolmogorov", parameters=RE))
    info = info_of(model, "kolmogorov", "pirf", parameters=RE, parent=base, handover=HANDOVER)
    save_checkpoint(folder / "re1000-pirf.safetensors", tuned_from(model), info)
    Library(folder).write_manifest()
    return Library(folder)


@pytest.fixture
def pair_files(pair, small_models) -> Path:
    """The folder of `pair`; the command line finds the parent there."""
    return pair.folder


@every_pde
def test_default_ones(name):
    pde = get_pde(name)
    assert pde.with_parameters({}) is pde is get_pde(name, {})
    assert pde.full_title == pde.title
    found = [pde.parameters(n) for n in (16, 64, 128, 256)]
    if name == "kolmogorov":
        assert found == [{"reynolds": re} for re in (100.0, 100.0, 250.0, 1000.0)]
    else:  # what the law of the data is does not depend on the grid
        assert found == [pde.default_parameters(64)] * 4


@pytest.mark.parametrize(
    "values",
    [{"viscosity": 1.0}, {"reynolds": "high"}, {"reynolds": True}, {"reynolds": 0.0}, {"reynolds": float("nan")}]
    + [{"reynolds": None}, {"reynolds": 1e12}, [["reynolds", 1000.0]], None, "reynolds"],
    ids=str,
)
def test_bad_ones_are_refused(values, tmp_path):
    refused(get_pde, "kolmogorov", values, kind=InputError)
    model, path = tiny_denoiser("kolmogorov"), tmp_path / "base.safetensors"
    save_checkpoint(path, model, info_of(model, "kolmogorov", parameters=RE))
    rewrite(path, parameters={**RE})
    load_checkpoint(path, no_parent)
    refused(load_checkpoint, rewrite(path, parameters=values), no_parent)
    refused(load_checkpoint, rewrite(path, parameters={"reynolds": 100.0}), no_parent)  # the default is left out


def test_pdes_without_any_refuse_them(base_file):
    assert "darcy" in refused(get_pde, "darcy", RE, kind=InputError)
    refused(load_checkpoint, rewrite(base_file, parameters=RE), no_parent)


def test_laminar_flow_is_steady_at_its_own_reynolds_number_only():
    y = 2 * np.pi * np.arange(32)[:, None] / 32
    laminar = -FORCING * np.cos(4 * y) / (16 / 1000 + 0.1)
    fields = torch.from_numpy(np.tile(laminar, (1, 3, 1, 32)))
    own, other = get_pde("kolmogorov", RE), get_pde("kolmogorov")
    for name in ("residual", "second_residual", "paper_residual", "error_field", "balance"):
        assert getattr(other, name)(fields).abs().max() > 20 * getattr(own, name)(fields).abs().max(), name
    torch.testing.assert_close(own.solve(fields), fields)
    assert other.solve_error(fields).min() > 0.9


def test_hints_know_it():
    own, fields = get_pde("kolmogorov", RE), flow()
    x = own.normalise(fields)
    right, wrong = (pde.hints(x)[0][:, 1] - x[:, 1] for pde in (own, get_pde("kolmogorov")))
    assert right.norm() < 0.2 * wrong.norm()


def test_data_have_its_statistics():
    assert flow().std() > 1.1 * get_pde("kolmogorov").generate(4, 16, 3).std()
    assert not torch.equal(flow(), get_pde("kolmogorov", {"reynolds": 999.0}).generate(4, 16, 3))


def test_a_file_keeps_it_and_older_ones_are_the_same(pair, tmp_path):
    own = pair.load("kolmogorov", "pirf", 16)
    assert own.info.parameters == RE
    assert own.problem.parameters(16) == RE
    assert own.denoiser.base.hints.__self__.parameters(16) == RE
    model = tiny_denoiser("kolmogorov")
    save_checkpoint(tmp_path / "a.safetensors", model, info_of(model, "kolmogorov"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert "parameters" not in json.loads(file.metadata()[KEY])
    assert read_info(tmp_path / "a.safetensors").parameters == {}


def test_a_tuned_file_has_its_parent_s(pair):
    base = pair.load("kolmogorov", "base", 16)
    other = replace(base, info=replace(base.info, parameters={}))
    assert "parent" in refused(load_checkpoint, pair.folder / "re1000-pirf.safetensors", lambda sha256: other)


def test_figures_are_by_its_own_equation(pair, monkeypatch):
    """Solver data at Re = 1000 in place of what the model draws: everything is at the floor."""
    checkpoint = pair.load("kolmogorov", "base", 16)
    monkeypatch.setattr(statistics, "REFERENCE_SAMPLES", 16)
    monkeypatch.setattr(figures, "draw_together", lambda *a, **k: [figures.Drawn(flow(), 3, 1.0)])
    (row,) = evaluate([checkpoint], 3, 4, [0])
    assert row["parameters"] == RE
    floor = floors("kolmogorov", 16, 4, RE)
    names = ("residual_rms", "second_residual_rms", "solve_error_median", "paper_mse", "sliced_wasserstein")
    for name in names:
        assert row[name] < 3 * floor[name], name
    assert row["conservation_rate"] == 1
    settings = Settings("kolmogorov", ("base",), 3, 4, 0, resolution=16)
    measured = measure(checkpoint, flow(), settings, 3, 1.0)
    assert measured.row["parameters"] == RE
    assert measured.row["residual_rms"] < 1e-3
    assert max(measured.samples["solve_error"]) < 1e-3
    (plain,) = evaluate([replace(checkpoint, info=replace(checkpoint.info, parameters={}))], 3, 4, [0])
    assert "parameters" not in plain
    assert plain["residual_rms"] > 1000 * row["residual_rms"]


def test_reference_statistics_that_are_kept_are_of_the_default(monkeypatch, tmp_path):
    statistics.reference.cache_clear()
    monkeypatch.setattr(statistics, "FOLDER", tmp_path)
    monkeypatch.setattr(statistics, "REFERENCE_SAMPLES", 16)
    pde = get_pde("kolmogorov")
    statistics.Statistics.of(pde, pde.generate(20, 16, 8)).save(tmp_path / "kolmogorov-16.npz")
    assert statistics.reference("kolmogorov", 16).n == 20
    assert statistics.reference("kolmogorov", 16, (("reynolds", 100.0),)).n == 20
    own = statistics.reference("kolmogorov", 16, tuple(RE.items()))
    assert own.n == 16
    assert own.std.mean() > 1.1 * statistics.reference("kolmogorov", 16).std.mean()
    statistics.reference.cache_clear()


def test_tuning_is_by_its_own_equation(pair):
    base = pair.load("kolmogorov", "base", 16)
    run = PirfTuning(base, SMALL)
    assert residual_rms(run.pde, flow()).max() < 1e-3
    assert run.info().parameters == RE
    few = PidmConfig(updates=1, pool=32, validation=2, pool_steps=(3,), batch=2)
    data = PidmTuning(base, few)
    list(data.draw_pool())
    assert residual_rms(get_pde("kolmogorov", RE), data.pde.denormalise(data.data)).max() < 1e-2


def test_pretraining_tells_it(tmp_path):
    pde = get_pde("kolmogorov", RE)
    network = network_for(pde, resolution=16, base_channels=8, multipliers=(1,), attention=(), blocks=1)
    run = Pretraining(pde, network, PretrainConfig(samples=16, prior_box=4))
    assert run.info().parameters == RE
    run.save(tmp_path / "run.state")
    assert Pretraining.load(pde, tmp_path / "run.state").info().parameters == RE
    message = refused(Pretraining.load, get_pde("kolmogorov"), tmp_path / "run.state", kind=InputError)
    assert "parameters" in message


def test_floors_of_a_comparison_and_what_the_page_says(pair, monkeypatch):
    for name in ("base", "pirf"):
        pair.load("kolmogorov", name, 16)
    result = last(compare(pair, "kolmogorov", ["base", "pirf"], 2, 1, 0, resolution=16))
    assert [r.row["parameters"] for r in result.results] == [RE, RE]
    assert result.floors == data_floors("kolmogorov", 16, tuple(RE.items()))
    assert result.floors != data_floors("kolmogorov", 16)
    assert "Kolmogorov flow, Re = 1000" in html.caption(result, precomputed=False)
    assert result.benchmark.parameters(16) == RE


def test_the_page_measures_what_it_shows_by_it(pair):
    """The preview while sampling, and the levels beside the curves of a run."""
    settings = Settings("kolmogorov", ("base",), 3, 4, 0, resolution=16)
    sketch = Sketch(settings, 0)
    assert sketch.add(Preview("base", 1, 3, 1, 1.0, flow().numpy(), RE))
    (row,) = sketch.rows.values()
    assert row[3] < 1e-3
    base = pair.load("kolmogorov", "base", 16).info
    floor = data_floors("kolmogorov", 16, tuple(RE.items()))["residual_rms"]
    assert references(pair, base, "pirf")["residual"] == [("bundled PIRF", 1.5), ("data floor", floor)]
    ((name, other),) = references(pair, replace(base, parameters={}), "pirf")["residual"]
    assert (name, other) == ("data floor", data_floors("kolmogorov", 16)["residual_rms"])
    assert other != floor
    run = SimpleNamespace(base=pair.load("kolmogorov", "base", 16), samples=(flow(), flow()), sample=0)
    grid = samples_grid(run)
    (residuals,) = (column.captions for column in grid.columns if "residual" in column.title)
    assert all(float(text.split()[1]) < 1e-3 for text in residuals)


def test_different_equations_are_not_compared(pair, tiny_library, folder, pair_files, capsys):
    class Both(Library):
        def load(self, pde, method, resolution=None):
            return (pair if method == "pirf" else tiny_library).load(pde, method, resolution)

    message = refused(compare, Both(folder), "kolmogorov", ["base", "pirf"], 2, 1, 0, kind=InputError)
    assert "Re = 100," in message
    assert "Re = 1000" in message
    files = f"base,{pair_files / 're1000.safetensors'}"
    message = refused_command(capsys, "evaluate", "--pde", "kolmogorov", "--methods", files, "--steps", "2", "--n", 2)
    assert "Re = 1000" in message
    compare(Both(folder), "poisson", ["base"], 2, 1, 0)


def test_commands_measure_by_it_and_say_so(pair_files, capsys):
    file = pair_files / "re1000.safetensors"
    assert run("sample", "--pde", "kolmogorov", "--method", file, "--steps", 2, "--n", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == RE
    with np.load("out.npz") as drawn:
        fields = torch.from_numpy(drawn["fields"])
        torch.testing.assert_close(torch.from_numpy(drawn["residual"]), get_pde("kolmogorov", RE).residual(fields))
    command = ["evaluate", "--pde", "kolmogorov", "--methods", file, "--steps", "2", "--n", 2, "--json", "report.json"]
    assert run(*command) == 0
    report = json.loads(Path("report.json").read_text())
    assert report["rows"][0]["parameters"] == RE
    assert report["floors"]["kolmogorov"] == floors("kolmogorov", 16, 2, RE)
    table = capsys.readouterr().out
    assert table.count("| kolmogorov, Re = 1000 |") == 2
    plain = {"rows": [{k: v for k, v in report["rows"][0].items() if k != "parameters"}]}
    assert "Re = 1000" in refused(merge, [report, report | plain], kind=InputError)
    assert format_table(plain["rows"]).count("| kolmogorov |") == 1


def test_lists_and_cards_name_it(pair, monkeypatch, capsys):
    monkeypatch.setattr("pirf_app.cli.models.Library", lambda: pair)
    assert run("models", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("Re = 1000") for line in lines)
    entries = pair.manifest()
    assert [entry["parameters"] for entry in entries] == [RE, RE]
    assert table.table(entries).count("Kolmogorov flow, Re = 1000") == 2
    assert "stokes" in table.table([entries[0] | {"pde": "stokes"}])
    info = read_info(pair.folder / entries[0]["file"])
    row = info.label | {"steps": 10, "n": 2}
    assert cards.rows_of(info, [row, row | {"parameters": {}}]) == [row]
    card = cards.model_card(entries[0], info, [], entries)
    assert "Kolmogorov flow, Re = 1000 at 16x16" in card
    assert "Re 100 up to" not in card
    assert "Re = 1000" in cards.repository_card("owner/name", [(entries[0], info)], [], {})


def test_guided_and_copied_models_keep_it(pair):
    checkpoint = deepcopy(pair.load("kolmogorov", "cocogen", 16))
    assert checkpoint.denoiser.pde.parameters(16) == RE
