"""Base models of data that differ from the bundled ones': another law of the inputs, fields of one's own."""

import json

import numpy as np
import pytest
import torch
from pde_data import data
from terminal import refused, run

from pirf_app.evaluation.figures import residual_rms
from pirf_app.models.checkpoint import read_info
from pirf_app.pdes import get_pde

LAW = {"permeability": "log-normal"}
SMALL = ("--channels", 8, "--multipliers", "1,2", "--prior-box", 3, "--batch", 8)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, quick_data):
    monkeypatch.chdir(tmp_path)


def test_log_normal_permeability_has_its_law_and_its_solver():
    pde = get_pde("darcy", LAW)
    fields = pde.generate(64, 32, 3).double()
    logarithm = fields[:, 0].log()
    assert logarithm.median().exp().item() == pytest.approx(6, rel=0.1)
    assert logarithm.std().item() == pytest.approx(0.7, rel=0.15)
    assert len(fields[0, 0].unique()) > 100
    assert residual_rms(pde, fields).max() < pde.residual_floor
    assert pde.balance(fields).max() < 1e-3
    assert pde.solve_error(fields).max() < 1e-5
    torch.testing.assert_close(pde.solve(fields)[:, 0], fields[:, 0])
    # By the other law it is another medium, and that is told.
    plain = get_pde("darcy")
    assert plain.reinterpreted(fields).mean() > 0.5
    assert plain.solve_error(fields).min() > 0.05
    assert pde.reinterpreted(fields).max() == 0
    fields[0, 0, 3, 4] = -1
    assert pde.reinterpreted(fields)[0] > 0
    assert pde.residual(fields).isfinite().all()


def test_a_model_of_another_law_is_trained_sampled_and_measured_by_it(capsys):
    assert run("pretrain", "--pde", "darcy", "--parameter", "permeability=log-normal", "--resolution", 16, *SMALL,
               "--samples", 16, "--out", "a.safetensors") == 0  # fmt: skip
    assert read_info("a.safetensors").parameters == LAW
    capsys.readouterr()
    assert run("sample", "--pde", "darcy", "--method", "./a.safetensors", "--n", 2, "--steps", 3, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["parameters"] == LAW
    assert "permeability must be one of two-phase, log-normal" in refused(
        capsys, "data", "--pde", "darcy", "--parameter", "permeability=smooth"
    )


def test_a_model_is_trained_on_fields_of_ones_own(capsys):
    """The covariance in its preconditioning is theirs, and a bad sample is left out."""
    pde, fields = get_pde("poisson"), data("poisson", 16, 16)
    fields[3, 0, 2, 2] = torch.nan
    np.savez("own.npz", fields=pde.normalise(fields).numpy())
    arguments = ["pretrain", "--pde", "poisson", "--data", "own.npz", "--scaling", "normalised", *SMALL]
    assert run(*arguments, "--samples", 16, "--out", "a.safetensors") == 0
    assert "sample 3 is left out" in capsys.readouterr().err
    assert read_info("a.safetensors").resolution == 16
    # It goes on with the same fields, and says so where they are not given.
    assert run(*arguments, "--samples", 32, "--out", "a.safetensors", "--resume") == 0
    capsys.readouterr()
    without = [value for value in arguments if value not in ("--data", "own.npz", "--scaling", "normalised")]
    assert "given data" in refused(capsys, *without, "--samples", 48, "--out", "a.safetensors", "--resume")


@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        (np.zeros((4, 2, 16, 16)), (), "8 are the fewest"),
        (np.zeros((9, 2, 16, 16)), ("--resolution", 32), "not of 32"),
        (np.zeros((9, 3, 16, 16)), (), "poisson fields must have shape"),
        (np.full((9, 2, 16, 16), np.inf), (), "has 0 fields to train on"),
    ],
)
def test_fields_that_nothing_can_be_learnt_from_are_refused(fields, options, words, capsys):
    np.savez("own.npz", fields=fields)
    arguments = ["pretrain", "--pde", "poisson", "--data", "own.npz", *options, "--out", "a.safetensors"]
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
