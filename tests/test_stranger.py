"""The way of a network that a stranger trained elsewhere, from its pickle to a run of one's own on the page."""

import json

import numpy as np
import pytest
from edm_files import SMALL, network
from edm_reference import write_pickle
from terminal import run

from pirf_app.evaluation import statistics
from pirf_app.evaluation.comparison import compare, last
from pirf_app.methods.pirf import PirfConfig, PirfTuning
from pirf_app.models.library import grids
from pirf_app.training.events import TuningStep
from pirf_app.ui.serving.offered import beginning
from pirf_app.ui.serving.visitors import Visitors

QUICK = {"updates": 1, "pool": 2, "pool_steps": (3,), "batch": 2, "validation": 1, "chunk": 2, "warmup": 1}


def test_imported_tuned_measured_elsewhere_compared_and_trained_from(library, tmp_path, monkeypatch):
    """At 128x128, where no bundled model is, and its tuned file finds it wherever the two lie side by side."""
    monkeypatch.setattr(statistics, "REFERENCE_SAMPLES", 4)
    statistics.reference.cache_clear()
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    write_pickle(home / "net.pkl", {"ema": network("darcy", 128, SMALL)})
    assert (
        run("models", "import-edm", "net.pkl", "--pde", "darcy", "--preset", "published", "--out", "m.safetensors") == 0
    )
    options = [part for name, value in QUICK.items() for part in (f"--{name.replace('_', '-')}", value)]
    options[options.index((3,))] = 3
    assert run("finetune", "--pde", "darcy", "--from", "./m.safetensors", *options, "--out", "t.safetensors") == 0
    monkeypatch.chdir(elsewhere)
    methods = f"{home / 'm.safetensors'},{home / 't.safetensors'}"
    assert run("evaluate", "--pde", "darcy", "--methods", methods, "--steps", 3, "--n", 2, "--json", "report.json") == 0
    rows = json.loads((elsewhere / "report.json").read_text())["rows"]
    assert [(row["method"], row["resolution"]) for row in rows] == [("base", 128), ("pirf", 128)]
    mine = Visitors(library).of("a").models
    base, tuned = (mine.add(home / name) for name in ("m.safetensors", "t.safetensors"))
    assert 128 in grids(mine, "darcy")
    both = last(compare(mine, "darcy", [base.method, tuned.method], 3, 2, 0, resolution=128))
    for result, row in zip(both.results, rows, strict=True):
        assert result.fields.shape == (2, 2, 128, 128)
        assert result.row["residual_rms"] == pytest.approx(row["residual_rms"], rel=1e-3)
        assert np.isfinite(result.fields).all()
    tuning = PirfTuning(beginning(mine, "darcy", base.method), PirfConfig(**QUICK))
    assert [event.update for event in tuning.run() if isinstance(event, TuningStep)] == [0, 1]
    statistics.reference.cache_clear()
