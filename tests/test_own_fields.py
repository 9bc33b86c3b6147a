"""Fields of one's own: read from every format, in every scaling, measured as a model's samples are; or one sentence."""

import json
import zipfile

import h5py
import numpy as np
import pytest
import torch
from pde_data import data, every_pde
from scipy.io import savemat

from pirf_app.cli.main import main
from pirf_app.common.checks import InputError
from pirf_app.evaluation.figures import residual_rms
from pirf_app.evaluation.own_data import read_fields
from pirf_app.evaluation.own_fields import measure_fields
from pirf_app.pdes import get_pde

pytestmark = pytest.mark.usefixtures("quick_data")
RESOLUTION = 16


@pytest.fixture(autouse=True)
def _few_reference_fields(monkeypatch, tmp_path):
    from pirf_app.evaluation import statistics

    monkeypatch.setattr(statistics, "REFERENCE_SAMPLES", 16)
    statistics.reference.cache_clear()
    monkeypatch.chdir(tmp_path)
    yield
    statistics.reference.cache_clear()


def write(path, arrays: dict[str, np.ndarray]) -> None:
    """The arrays as a file of the kind that the name says; "v7.mat" stands for MATLAB 7.3, whose axes are reversed."""
    if path.name.endswith("v7.mat"):
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array.T
    elif path.suffix == ".mat":
        savemat(path, arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[f"group/{name}"] = array
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        np.save(path, next(iter(arrays.values())))


@every_pde
@pytest.mark.parametrize("ending", ["a.npz", "a.npy", "a.mat", "a-v7.mat", "a.h5"])
@pytest.mark.parametrize("layout", ["whole", "channels last", "one sample", "by channel"])
def test_every_format_and_layout_gives_the_same_fields(name, ending, layout, tmp_path):
    pde, fields = get_pde(name), data(name, 3, RESOLUTION)
    if layout == "by channel" and ending == "a.npy":
        pytest.skip("a file of one array")
    expected = fields[:1] if layout == "one sample" else fields
    array = expected.numpy().astype(np.float64)
    if layout == "by channel":
        arrays = {channel.name: array[:, i] for i, channel in enumerate(pde.channels)}
    elif layout == "one sample":
        arrays = {"fields": array[0]}
    else:
        arrays = {"fields": array if layout == "whole" else np.moveaxis(array, 1, -1)}
    path = tmp_path / ending
    write(path, arrays)
    keys = {k: f"group/{k}" for k in arrays} if ending == "a.h5" else None
    torch.testing.assert_close(read_fields(path, pde, keys), expected.double())


@every_pde
def test_scalings_are_undone(name, tmp_path):
    pde, fields = get_pde(name), data(name, 2, RESOLUTION)
    np.save(tmp_path / "a.npy", pde.normalise(fields).numpy())
    torch.testing.assert_close(read_fields(tmp_path / "a.npy", pde, None, "normalised").float(), fields)
    ours = {"offset": [0.5] * len(pde.channels), "scale": [2.0] * len(pde.channels)}
    np.save(tmp_path / "b.npy", (fields.numpy() - 0.5) / 2)
    torch.testing.assert_close(read_fields(tmp_path / "b.npy", pde, None, ours).float(), fields)


def test_published_darcy_fields_have_both_phases_and_rounding(tmp_path):
    """Channels last, as such networks are given them: a * 0.2 - 1.5 and u * 115 - 0.9."""
    a, u = data("darcy", 1, 32)[0].numpy()
    np.save(tmp_path / "a.npy", np.stack([a * 0.2 - 1.5, u * 115 - 0.9], -1))
    pde = get_pde("darcy")
    fields = read_fields(tmp_path / "a.npy", pde, None, "published")
    assert sorted(fields[0, 0].round(decimals=5).unique().tolist()) == [3, 12]
    assert residual_rms(pde, fields).max() < 1e-3


@every_pde
def test_figures_are_those_of_a_models_samples_and_a_bad_sample_is_named(name, tmp_path, capsys):
    pde, fields = get_pde(name), data(name, 4, RESOLUTION)
    fields[2, -1, 3, 5] = torch.inf
    np.savez(tmp_path / "a.npz", fields=fields.numpy())
    assert main(["check", "a.npz", "--pde", name, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [one["sample"] for one in found["samples"]] == [0, 1, 3]
    assert found["left_out"] == [
        {"sample": 2, "reason": f"{pde.channels[-1].title} is not a finite number at row 3, column 5"}
    ]
    assert "sample 2 is left out" in err
    good = fields[[0, 1, 3]]
    assert [one["residual_rms"] for one in found["samples"]] == pytest.approx(residual_rms(pde, good).tolist())
    assert found["row"]["conservation_rate"] == 1
    assert found["row"]["solve_error_p90"] < 1e-4
    assert found["notes"] == []
    assert set(found["floor"]) >= {"residual_rms", "spectrum_error", "sliced_wasserstein", "conservation_rate"}


@every_pde
def test_what_is_wrong_with_the_fields_is_told(name):
    pde, fields = get_pde(name), data(name, 3, RESOLUTION)
    scaled = measure_fields(pde, 4 * fields)
    assert "another scaling" in scaled.notes[0]
    other = measure_fields(pde, pde.hold_inputs(fields.roll(1, 0), fields))
    assert "does not close within 5% for sample 0, 1, 2" in other.notes[-1]
    assert other.row["solve_error_median"] > 0.2


@every_pde
def test_a_sample_that_no_solver_can_take_is_named(name):
    fields = data(name, 3, RESOLUTION)
    fields[1] *= 1e30
    found = measure_fields(get_pde(name), fields)
    assert [one["sample"] for one in found.samples] in ([0, 2], [0, 1, 2])  # a linear one may do with any size
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_inputs_that_are_read_as_others_are_told():
    pde, fields = get_pde("darcy"), data("darcy", 3, RESOLUTION)
    fields[:, 0] = 7.5 + 0.5 * (fields[:, 0] - 7.5)
    notes = measure_fields(pde, fields).notes
    assert any("near neither 3 nor 12" in note for note in notes)


BAD = {
    "text.npz": b"no archive",
    "text.npy": b"\x93NUMPY but not really",
    "empty.npz": b"",
    "empty.mat": b"",
    "short.mat": b"MATLAB 5.0 MAT-file" + bytes(40),
    "h5.h5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "no.h5": b"plain",
    "fields.csv": b"1,2,3",
    "lfs.npz": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_file_of_fields_is_refused_in_a_sentence(name, tmp_path):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(InputError, match=rf"^[^\n]*{name}[^\n]*$"):
        read_fields(tmp_path / name, get_pde("darcy"))


def bomb(path) -> None:
    """An archive that says little and unpacks to gigabytes."""
    head = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (20000, 2, 128, 128), }"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fields.npy", head.ljust(127) + b"\n")


ARRAYS = {
    "too large": bomb,
    "an object": lambda path: np.savez(path, fields=np.array([{"a": 1}], dtype=object)),
    "words": lambda path: np.savez(path, fields=np.array([["a", "b"]])),
    "no square": lambda path: np.savez(path, fields=np.zeros((3, 2, 32, 20))),
    "three channels": lambda path: np.savez(path, fields=np.zeros((2, 3, 16, 16))),
    "too coarse": lambda path: np.savez(path, fields=np.zeros((2, 2, 4, 4))),
    "no sample": lambda path: np.savez(path, fields=np.zeros((0, 2, 16, 16))),
    "two of them": lambda path: np.savez(path, one=np.zeros((2, 2, 16, 16)), two=np.zeros((2, 2, 16, 16))),
    "unequal": lambda path: np.savez(path, a=np.zeros((2, 16, 16)), u=np.zeros((3, 16, 16))),
    "all bad": lambda path: np.savez(path, fields=np.full((2, 2, 16, 16), np.nan)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_no_fields_are_refused_in_a_sentence(kind, tmp_path, capsys):
    ARRAYS[kind](tmp_path / "a.npz")
    assert main(["check", "a.npz", "--pde", "darcy"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--keys", "a"],
        ["--keys", "b=fields"],
        ["--keys", "a=fields"],
        ["--keys", "fields=nothing"],
        ["--scaling", "mine"],
        ["--offset", "1,2"],
        ["--offset", "1", "--scale", "2"],
        ["--offset", "a,b", "--scale", "1,2"],
        ["--scaling", "published", "--offset", "1,2", "--scale", "1,2"],
        ["--parameter", "reynolds=1000"],
        ["--pde", "stokes"],
    ],
)
def test_options_that_mean_nothing_are_refused_in_a_sentence(options, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", fields=data("darcy", 2, RESOLUTION).numpy())
    assert main(["check", "a.npz", "--pde", "darcy", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
