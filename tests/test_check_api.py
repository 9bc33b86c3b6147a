"""Fields of one's own over HTTP: `/check` of a running app; and how much a page takes on."""

import json
import urllib.request

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pde_data import data
from test_own_fields import write

from pirf_app.common.checks import InputError
from pirf_app.evaluation.figures import residual_rms
from pirf_app.evaluation.own_fields import FieldCheck
from pirf_app.pdes import get_pde
from pirf_app.ui.check import measuring as page

pytestmark = pytest.mark.usefixtures("quick_data")
RESOLUTION = 16


@pytest.fixture(scope="module")
def client(tiny_server):
    return Client(tiny_server, verbose=False)


def check(client, path, pde: str = "darcy", **options) -> dict:
    return client.predict(handle_file(str(path)), pde, api_name="/check", **options)


@pytest.mark.parametrize("ending", ["a.npz", "a.npy", "a.mat", "a-v7.mat", "a.h5"])
def test_every_format_is_measured_and_a_bad_sample_is_named(client, ending, tmp_path):
    fields = data("darcy", 3, RESOLUTION)
    spoiled = fields.clone()
    spoiled[1, 0, 3, 5] = torch.nan
    write(tmp_path / ending, {"fields": spoiled.numpy()})
    found = check(client, tmp_path / ending)
    expected = residual_rms(get_pde("darcy"), fields[[0, 2]]).tolist()
    assert [one["residual_rms"] for one in found["samples"]] == pytest.approx(expected)
    assert found["left_out"] == [{"sample": 1, "reason": "permeability a is not a finite number at row 3, column 5"}]
    assert found["sentence"].startswith("2 fields of Darcy flow: residual RMS ")
    assert "as small as solver data's" in found["sentence"]
    assert found["sentence"].endswith("conservation in 2 of 2.")
    assert found["floor"]["residual_rms"] > 0


def test_another_scaling_is_hinted_at_and_undone(client, tmp_path):
    pde, fields = get_pde("darcy"), data("darcy", 2, RESOLUTION)
    np.save(tmp_path / "a.npy", pde.normalise(fields).numpy())
    wrong = check(client, tmp_path / "a.npy")
    assert "another scaling" in wrong["notes"][0]
    assert "say little" in wrong["sentence"]
    statistics = {"offset": [c.mean for c in pde.channels], "scale": [2 * c.std for c in pde.channels]}
    for options in ({"scaling": "normalised"}, statistics):
        found = check(client, tmp_path / "a.npy", **options)
        assert found["notes"] == []
        assert found["row"]["solve_error_median"] < 1e-3


def test_arrays_are_named_where_the_file_does_not_tell(client, tmp_path):
    fields = data("darcy", 2, RESOLUTION).numpy()
    np.savez(tmp_path / "a.npz", one=np.zeros_like(fields), two=fields, k=fields[:, 0], p=fields[:, 1])
    with pytest.raises(AppError, match=r"one \[2, 2, 16, 16\], two .*which holds a and which u"):
        check(client, tmp_path / "a.npz")
    whole = check(client, tmp_path / "a.npz", keys={"fields": "two"})
    parts = check(client, tmp_path / "a.npz", keys={"a": "k", "u": "p"})
    assert whole["samples"] == parts["samples"]
    assert len(whole["samples"]) == 2


@pytest.mark.parametrize("pde", ["burgers", "kolmogorov"])
def test_other_equations_and_their_numbers(client, pde, tmp_path):
    np.savez(tmp_path / "a.npz", fields=data(pde, 2, RESOLUTION).numpy())
    found = check(client, tmp_path / "a.npz", pde)
    assert [one["sample"] for one in found["samples"]] == [0, 1]
    if pde == "kolmogorov":
        other = check(client, tmp_path / "a.npz", pde, parameters={"reynolds": 10})
        assert other["row"]["residual_rms"] > 10 * found["row"]["residual_rms"]


def no_square(path):
    np.savez(path, fields=np.zeros((3, 2, 32, 20)))


BAD = {
    "text": ("a.txt", lambda path: path.write_text("1,2,3"), {}, "not a file of fields"),
    "no archive": ("a.npz", lambda path: path.write_text("1,2,3"), {}, "cannot be read"),
    "no square": ("a.npz", no_square, {}, r"must have shape \[n, 2, N, N\], not \[3, 2, 32, 20\]"),
    "an equation": ("a.npz", no_square, {"pde": "heat"}, "unknown PDE"),
    "a scaling": ("a.npz", lambda path: np.savez(path, fields=np.ones((1, 2, 16, 16))), {"scaling": "x"}, "scaling"),
    "half a scaling": ("a.npz", no_square, {"offset": [1, 2]}, "both an offset and a scale"),
    "no numbers": ("a.npz", lambda path: np.savez(path, fields=np.ones((1, 2, 16, 16))), {"offset": 1, "scale": "a"},
                   "list"),
    "no table": ("a.npz", no_square, {"keys": ["a"]}, "keys must be a table"),
    "a key": ("a.npz", no_square, {"keys": {"a": "b", "u": "c"}}, "has no array 'b'"),
    "a number": ("a.npz", no_square, {"parameters": {"reynolds": 1}}, "has no parameter"),
    "all bad": ("a.npz", lambda path: np.savez(path, fields=np.full((2, 2, 16, 16), np.nan)), {}, "no sample that can"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_measured_is_answered_in_a_sentence_and_the_app_goes_on(client, kind, tmp_path):
    name, make, options, words = BAD[kind]
    make(tmp_path / name)
    with pytest.raises(AppError, match=words) as error:
        check(client, tmp_path / name, **options)
    assert "\n" not in str(error.value)
    np.savez(tmp_path / "good.npz", fields=data("darcy", 1, RESOLUTION).numpy())
    assert len(check(client, tmp_path / "good.npz")["samples"]) == 1


@pytest.mark.parametrize("kind", ["path", "place", "marked", "through the folder"])
def test_files_of_the_server_are_nobody_s_to_read(client, tiny_server, kind, tmp_path):
    np.savez(tmp_path / "a.npz", fields=data("darcy", 1, RESOLUTION).numpy())
    path, mark = str(tmp_path / "a.npz"), {"meta": {"_type": "gradio.FileData"}}
    if kind == "through the folder":
        from gradio.utils import get_upload_folder

        path = f"{get_upload_folder()}/../{tmp_path.relative_to(tmp_path.anchor)}/a.npz"
    file = path if kind == "path" else {"path": path} | (mark if kind != "place" else {})
    body = json.dumps({"data": [file, "darcy", "physical", None, None, None, None]}).encode()
    address = f"{tiny_server}/gradio_api/call/check"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request))["event_id"]
    answer = urllib.request.urlopen(f"{address}/{event}").read().decode()
    assert "event: error" in answer
    assert "residual" not in answer


def measured(path) -> FieldCheck:
    *said, found = page.measuring(path, get_pde("darcy"), None, "physical")
    assert all(isinstance(text, str) for text in said)
    return found


def test_a_page_measures_so_many_samples_and_says_so(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", fields=data("darcy", 3, RESOLUTION).numpy())
    monkeypatch.setattr(page, "MAX_POINTS", 2 * RESOLUTION**2)
    found = measured(tmp_path / "a.npz")
    assert [one["sample"] for one in found.samples] == [0, 1]
    assert "first 2 of 3 samples" in found.notes[0]


def test_a_page_takes_no_finer_grid_and_unpacks_no_more_than_it_says(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", fields=np.ones((2, 2, 264, 264)), more=np.ones((9, 264, 264)))
    with pytest.raises(InputError, match=r"264x264 takes too long here, where 256x256 is the finest"):
        measured(tmp_path / "a.npz")
    monkeypatch.setattr(page, "MAX_BYTES", 4 * 10**6)  # each array is less, both are more
    with pytest.raises(InputError, match="unpacked, is 7.2 MB, and 4.0 MB are read at most"):
        measured(tmp_path / "a.npz")
    with pytest.raises(InputError, match="136x136 takes too long here, where 128x128"):
        page.check_grid(get_pde("kolmogorov"), 136)
