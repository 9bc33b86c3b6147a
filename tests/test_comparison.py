"""Several models from the same noise: requests, previews, figures, words, files."""

import csv
import io
import json
import math
from itertools import count

import numpy as np
import pytest
import torch

from pirf_app.common.checks import InputError, whole_number
from pirf_app.diffusion import denoiser, sampler
from pirf_app.diffusion.guidance import DiffusionPDE
from pirf_app.diffusion.network import UNet
from pirf_app.evaluation.comparison import Comparison, Preview, Settings, check_settings, compare, conclude, last
from pirf_app.evaluation.exports import csv_text, read_npz, write_npz
from pirf_app.evaluation.figures import draw_fields, residual_rms
from pirf_app.pdes import get_pde, pde_names
from pirf_app.ui.drawing import html
from pirf_app.ui.drawing.html import table

METHODS = ["base", "pirf"]
pytestmark = pytest.mark.usefixtures("quick_data")


@pytest.fixture(scope="module")
def library(tiny_library):
    return tiny_library


@pytest.fixture(scope="module", params=pde_names())
def events(library, quick_data, request):
    return list(compare(library, request.param, METHODS, 3, 2, 5))


@pytest.fixture(scope="module")
def comparison(events):
    return events[-1]


@pytest.fixture(scope="module")
def pde(comparison):
    return get_pde(comparison.settings.pde)


def test_one_preview_per_step_and_method_then_the_result(events, pde):
    assert [(e.method, e.step) for e in events[:-1]] == [(m, k) for k in (1, 2, 3) for m in METHODS]
    assert all(isinstance(e, Preview) and e.fields.shape == (2, len(pde.channels), 16, 16) for e in events[:-1])
    assert [e.nfe for e in events[:-1:2]] == [1, 2, 3]
    assert isinstance(events[-1], Comparison)
    for preview, result in zip(events[-3:-1], events[-1].results, strict=True):
        np.testing.assert_array_equal(preview.fields, result.fields)


def near(found: np.ndarray, expected: np.ndarray, relative: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * expected.std())


def test_fields_are_what_the_sampler_gives_for_that_seed(library, comparison, pde):
    for result in comparison.results:
        fields, nfe = draw_fields(library.load(pde.name, result.method), 3, 2, 5)
        near(result.fields, fields.numpy(), 1e-4)
        assert result.row["nfe"] == nfe


def test_figures_are_those_of_the_evaluation(comparison, pde):
    for result in comparison.results:
        fields = torch.from_numpy(result.fields)
        assert result.samples["residual_rms"] == pytest.approx(residual_rms(pde, fields).tolist())
        assert result.samples["solve_error"] == pytest.approx(pde.solve_error(fields).tolist())
        np.testing.assert_allclose(result.solution, pde.solve(fields).numpy())
        assert result.row["residual_ratio"] == result.row["residual_rms"] / comparison.results[0].row["residual_rms"]
    assert comparison.floors["residual_rms"] < 0.1 * comparison.results[0].row["residual_rms"]


def test_first_sample_does_not_depend_on_their_number(library, comparison, pde):
    alone = last(compare(library, pde.name, ["base"], 3, 1, 5))
    near(alone.results[0].fields[0], comparison.results[0].fields[0], 2e-3)


def test_methods_come_in_the_order_of_the_library(library):
    assert check_settings(library, "darcy", ["pirf", "base"], 10.0, 4.0, "7").methods == ("base", "pirf")
    assert check_settings(library, "darcy", ["base", "base"], 10, 4, 7).methods == ("base",)


def test_schedule_can_be_overridden(library):
    narrow = last(compare(library, "poisson", ["base"], 3, 1, 5, sigma_min=0.1))
    wide = last(compare(library, "poisson", ["base"], 3, 1, 5, sigma_min=0.01))
    assert not np.allclose(narrow.results[0].fields, wide.results[0].fields)


GOOD = {"pde": "darcy", "methods": METHODS, "steps": 5, "n": 1, "seed": 0}
BAD = [
    {"pde": "heat"},
    {"pde": None},
    {"methods": []},
    {"methods": "base"},
    {"methods": ["magic"]},
    {"methods": [3]},
    *({"steps": x} for x in (0, 1, 81, 1e9, math.nan, math.inf, "ten", True, None, 5.5, [5])),
    *({"n": x} for x in (0, 9, -1, math.nan, "2", False, 1.5)),
    *({"seed": x} for x in (-1, 2**63, 1e30, math.nan, "x", "", "-3", "1.5", "9" * 30, True, None, "²")),
    *({"sigma_min": x} for x in (0, -1, math.nan, "low", True, 1e9)),
    {"sigma_max": 1e-3},
    {"sigma_min": 5.0, "sigma_max": 4.0},
    {"rho": 0},
    {"rho": "7"},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_bad_requests_are_answered_with_one_sentence(library, change):
    with pytest.raises(InputError) as caught:
        compare(library, **GOOD | change)
    sentence = str(caught.value)
    assert 10 < len(sentence) < 250
    assert "\n" not in sentence


def test_whole_numbers():
    assert whole_number("n", 10.0, 1, 80) == 10
    assert whole_number("seed", str(2**63 - 1), 0, 2**63 - 1, text=True) == 2**63 - 1
    assert whole_number("seed", 2**63 - 1, 0, 2**63 - 1) == 2**63 - 1


def made_up(
    *pairs: tuple[float, float], amplitude: float = 1.0, far: tuple = (1,), reinterpreted: float = 0.0
) -> Comparison:
    """A comparison whose methods have these residuals and forward-solve errors; `far` ones have that amplitude."""
    from pirf_app.evaluation.comparison import MethodResult

    empty = np.zeros((1, 2, 8, 8), np.float32)
    results = []
    for i, (residual, error) in enumerate(pairs):
        row = {"pde": "darcy", "method": METHODS[i], "steps": 10, "residual_rms": residual}
        row |= {"solve_error_median": error, "reinterpreted": reinterpreted}
        row["amplitude"] = [amplitude if i in far else 1.0, 1.0]
        results.append(MethodResult(METHODS[i], empty, empty[:, 0], empty, {}, row))
    floors = {"residual_rms": 1e-5, "solve_error_median": 0.0, "boundary_rms": 0.0}
    floors["amplitude_range"] = [[0.9, 1.1], [0.7, 1.3]]
    return conclude(Settings("darcy", tuple(METHODS[: len(pairs)]), 10, 1, 0), results, floors)


def test_sentence_for_a_gain():
    made = made_up((4.1, 0.030), (1.0, 0.018))
    assert made.sentence == "PIRF: 4.1x lower residual at the same 10 steps; forward-solve error 1.8 % against 3.0 %."
    assert made.notes == ()


def test_sentence_for_a_loss_and_for_a_draw():
    assert "2.0x higher residual" in made_up((1.0, 0.03), (2.0, 0.03)).sentence
    assert "the same residual" in made_up((1.0, 0.03), (1.01, 0.03)).sentence
    assert "5.0 % against 3.0 %, which is worse." in made_up((1.0, 0.03), (0.5, 0.05)).sentence


def test_sentence_for_one_method():
    assert "residual RMS 4.1 at 10 steps" in made_up((4.1, 0.03)).sentence


def test_notes_tell_gains_that_are_none():
    assert "residual falls while forward-solve error rises" in made_up((1.0, 0.03), (0.5, 0.05)).notes[0]
    assert "below the data floor" in made_up((1.0, 0.03), (1e-7, 0.02)).notes[0]
    assert "permeability a varies 20.0 % smaller" in made_up((1.0, 0.03), (0.5, 0.02), amplitude=0.8).notes[0]


@pytest.mark.parametrize("amplitude", [89.0, 1.5, 0.01])
def test_fields_that_are_no_samples_are_told_first(amplitude):
    """Before any gain, whichever method's they are, and of those that are samples the verdict remains."""
    off = f"not converged: amplitude of permeability a {amplitude:.2g} times the data's at 10 steps"
    tuned = made_up((1.0, 0.03), (0.5, 0.02), amplitude=amplitude).verdicts
    assert len(tuned) == 2
    assert tuned[0].startswith(f"PIRF: {off}")
    assert tuned[1].startswith("Baseline: residual RMS 1 at 10 steps")
    both = made_up((1.0, 0.03), (1.0, 0.03), amplitude=amplitude, far=(0, 1))
    assert [text.split(":")[0] for text in both.verdicts] == ["Baseline", "PIRF"]
    assert "lower" not in both.sentence
    assert "the same residual" not in both.sentence
    (baseline,) = made_up((1.0, 0.03), (0.1, 0.01), amplitude=amplitude, far=(0,)).verdicts
    assert baseline.startswith(f"Baseline: {off}")


def test_inputs_that_are_read_as_others_are_told():
    notes = made_up((1.0, 0.03), (0.5, 0.02), reinterpreted=0.7).notes
    assert "70.0 % of the permeability is near neither 3 nor 12" in notes[0]
    assert made_up((1.0, 0.03), (0.5, 0.02), reinterpreted=0.001).notes == ()


def test_every_method_has_its_own_evaluations_and_seconds(library, pde, monkeypatch):
    """What methods share is computed once, and counts for each: by a clock that goes on by one at every network
    evaluation."""
    calls = count(0)
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda *given: (next(calls), forward(*given))[1])
    monkeypatch.setattr(sampler.time, "perf_counter", lambda: float(repr(calls)[6:-1]))
    both = last(compare(library, pde.name, ["base", "pirf", "diffusionpde"], 4, 1, 5))
    rows = {result.method: result.row for result in both.results}
    assert (rows["base"]["seconds"], rows["pirf"]["seconds"], rows["base"]["nfe"]) == (4, 4, 4)
    schedule = library.load(pde.name, "base").info.schedule.with_steps(4)
    below = sum(0 < level <= DiffusionPDE.below for level in schedule.sigmas().tolist())
    assert below > 0
    assert rows["diffusionpde"]["nfe"] == 4 + below


def test_the_page_computes_in_the_precision_of_everything_else(library, comparison, pde, monkeypatch):
    """Also on a processor that would be faster in bfloat16: the same seed has the same digits everywhere."""
    monkeypatch.setattr(denoiser, "native_bfloat16", lambda device="cpu": True)
    again = last(compare(library, pde.name, METHODS, 3, 2, 5))
    for mine, theirs in zip(again.results, comparison.results, strict=True):
        np.testing.assert_array_equal(mine.fields, theirs.fields)
        drawn, _ = draw_fields(library.load(pde.name, mine.method), 3, 2, 5)
        near(mine.fields, drawn.numpy(), 1e-6)
        assert mine.row["precision"] == "float32"
    header, line, *_ = csv_text(comparison).splitlines()
    assert dict(zip(header.split(","), line.split(","), strict=True))["precision"] == "float32"
    assert "float32" in html.caption(comparison, False)


def test_npz_has_the_contract_and_comes_back(comparison, pde, tmp_path):
    path = write_npz(comparison, tmp_path / "out.npz")
    with np.load(path, allow_pickle=False) as data:
        assert data["fields"].shape == data["solution"].shape == (2, len(pde.channels), 16, 16)
        assert data["residual"].shape == (2, 16, 16)
        assert data["fields"].dtype == np.float32
        assert data["noise_seed"] == 5
        assert json.loads(str(data["meta"]))["settings"]["pde"] == pde.name
        np.testing.assert_array_equal(data["pirf_fields"], data["fields"])
    again = read_npz(path)
    assert again.to_dict() == comparison.to_dict()
    np.testing.assert_array_equal(again.results[0].fields, comparison.results[0].fields)


def test_damaged_files_are_refused(comparison, tmp_path):
    path = write_npz(comparison, tmp_path / "out.npz")
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name, content in {"cut.npz": whole[: len(whole) // 2], "empty.npz": b"", "text.npz": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("cut", "empty", "text", "other", "missing", "flipped"):
        with pytest.raises(InputError, match=f"{name}.npz cannot be read"):
            read_npz(tmp_path / f"{name}.npz")


def test_csv_has_a_line_per_method_and_sample(comparison):
    rows = list(csv.DictReader(io.StringIO(csv_text(comparison))))
    assert [(r["method"], r["sample"]) for r in rows] == [(m, str(k)) for m in METHODS for k in range(2)]
    assert float(rows[0]["residual_rms"]) == pytest.approx(comparison.results[0].samples["residual_rms"][0], rel=1e-4)


def test_the_table_names_what_its_ratios_refer_to(library):
    for methods, name in ((["base", "pirf"], "the baseline"), (["pirf", "cocogen"], "PIRF")):
        shown = table(last(compare(library, "darcy", methods, 2, 1, 0)))
        assert shown.count(f"× {name}</small>") == 2
        assert shown.count("×") == 2 + shown.count("1 × 2 steps")
