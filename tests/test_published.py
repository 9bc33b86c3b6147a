"""How published networks see fields, on each benchmark: scaling, axes, parameters; and such networks at work."""

import json
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from edm_files import network
from edm_reference import contents, training_state, write_pickle, write_saved
from pde_data import data, every_pde
from spoiled import no_parent, refused, rewrite
from terminal import refused as refused_command
from terminal import run

from pirf_app.common.checks import InputError
from pirf_app.diffusion.sampler import initial_noise, trajectory
from pirf_app.evaluation.figures import draw_fields, residual_rms
from pirf_app.methods.pirf import PirfConfig, PirfTuning
from pirf_app.models.checkpoint import Checkpoint, load_checkpoint, read_info
from pirf_app.models.edm.network import import_edm
from pirf_app.models.library import Library, guided
from pirf_app.pdes import get_pde
from pirf_app.pdes.units import in_units

TURNED = {"transposed": True}
# physical = offset + scale * x, one a channel
PUBLISHED = {
    "burgers": ([0], [1.415]),
    "darcy": ([7.5, 0.00782609], [5, 0.00869565]),
    "poisson": ([0, 0], [2.5, 0.0273973]),
    "helmholtz": ([0, 0], [2.15, 0.028]),
    "kolmogorov": ([0, 0, 0], [12, 12, 12]),
}


@every_pde
def test_constants(name):
    pde = get_pde(name)
    offset, scale = PUBLISHED[name]
    assert pde.published_scaling == {"offset": offset, "scale": scale} | (TURNED if name == "kolmogorov" else {})
    assert pde.published_parameters == ({"reynolds": 1000.0} if name == "kolmogorov" else {})
    units = in_units(pde, pde.published_scaling)
    assert units.normalisation() == pde.published_scaling
    seen = units.normalise(data(name, 8))
    assert (seen.abs().amax((0, 2, 3)) > 0.1).all()
    assert (seen.abs() < 2).all()


def test_darcy_fields_as_published_networks_see_them():
    """a * 0.2 - 1.5 and u * 115 - 0.9, channels last: decoded, they are the solver's again."""
    pde, fields = get_pde("darcy"), data("darcy", 4, 64).double()
    seen = torch.stack([fields[:, 0] * 0.2 - 1.5, fields[:, 1] * 115 - 0.9], -1).permute(0, 3, 1, 2)
    found = in_units(pde, pde.published_scaling).denormalise(seen)
    torch.testing.assert_close(found[:, 0], fields[:, 0], rtol=1e-12, atol=0)
    assert set(fields[:, 0].unique().tolist()) == {3.0, 12.0}
    assert residual_rms(pde, found).max() < 1e-3  # the constants have six digits
    assert pde.solve_error(found).max() < 1e-5


@every_pde
def test_the_documentation_names_them(name):
    pde, words = get_pde(name), (Path(__file__).resolve().parents[1] / "docs" / "networks.md").read_text()
    for key in ("offset", "scale"):
        assert ",".join(f"{value:g}" for value in pde.published_scaling[key]) in words


def units_of(name: str) -> list:
    pde, channels = get_pde(name), len(get_pde(name).channels)
    affine = {"offset": [0.3] * channels, "scale": [2.0] * channels}
    return [in_units(pde, own | TURNED) for own in (pde.normalisation(), affine)]


@every_pde
def test_axes_are_turned_for_the_network_only(name):
    pde, fields = get_pde(name), data(name, 2, 32).double()
    for units in units_of(name):
        straight = in_units(pde, {k: v for k, v in units.normalisation().items() if k != "transposed"})
        x = units.normalise(fields)
        assert torch.equal(x, straight.normalise(fields).mT)
        torch.testing.assert_close(units.denormalise(x), fields)
        assert not torch.allclose(straight.denormalise(x), fields)
        assert in_units(pde, units.normalisation()).normalisation() == units.normalisation()
        for k in range(0, pde.symmetries, max(1, pde.symmetries // 8)):
            torch.testing.assert_close(units.denormalise(units.turned(x, k)), pde.transform(fields, k))


@every_pde
def test_a_change_of_a_field_is_turned_with_it(name):
    """What a sampler remembers of the step before goes through the same symmetry as its state."""
    pde, channels = get_pde(name), len(get_pde(name).channels)
    affine = in_units(pde, {"offset": [0.3] * channels, "scale": [2.0] * channels})
    one, other = initial_noise(2, (channels, 32, 32), 0).double(), initial_noise(2, (channels, 32, 32), 1).double()
    for units in (pde, affine, *units_of(name)):
        for k in range(0, pde.symmetries, max(1, pde.symmetries // 8)):
            turned = units.turned(one, k) - units.turned(other, k)
            torch.testing.assert_close(units.turned_change(one - other, k), turned)


@every_pde
def test_units_can_be_copied_and_pickled(name):
    for units in units_of(name):
        for again in (deepcopy(units), pickle.loads(pickle.dumps(units))):
            assert again.normalisation() == units.normalisation()
            assert torch.equal(again.normalise(data(name, 2)), units.normalise(data(name, 2)))


@pytest.mark.parametrize("value", [False, 1, "yes", None, [True]])
def test_bad_axes_in_a_file(value, tmp_path):
    path = imported(tmp_path, "darcy", "--preset", "published")
    scaling = get_pde("darcy").published_scaling
    assert load_checkpoint(rewrite(path, normalisation=scaling | TURNED), no_parent).info.normalisation["transposed"]
    assert "transposed" in refused(
        load_checkpoint, rewrite(path, normalisation=scaling | {"transposed": value}), no_parent
    )


def imported(folder: Path, pde: str, *options) -> Path:
    path, out = write_pickle(folder / "net.pkl", contents(network(pde))), folder / f"{pde}.safetensors"
    assert run("models", "import-edm", path, "--pde", pde, "--out", out, *options) == 0
    return out


def test_a_turned_network_draws_the_same_fields_turned(tmp_path):
    path = write_pickle(tmp_path / "net.pkl", contents(network("burgers")))
    scaling, drawn = get_pde("burgers").published_scaling, []
    for normalisation in (scaling, scaling | TURNED):
        checkpoint = Checkpoint(*import_edm(path, "burgers", normalisation), "")
        fields, _ = draw_fields(checkpoint, 3, 2, 0)
        drawn.append(fields)
        *_, end = trajectory(
            guided(checkpoint, "cocogen").denoiser,
            initial_noise(2, (1, 16, 16), 0),
            checkpoint.info.schedule.with_steps(3),
        )
        fields = checkpoint.problem.denormalise(end.x)
        drawn.append(residual_rms(get_pde("burgers"), fields))
    torch.testing.assert_close(drawn[2], drawn[0].mT)
    # Guidance knows which axis is time: it lowers the residual of the field as this app has it.
    straight, turned = (residual_rms(get_pde("burgers"), fields) for fields in (drawn[0], drawn[2]))
    assert (drawn[1] < straight).all()
    assert (drawn[3] < turned).all()


def test_a_turned_network_is_tuned_the_right_way_round(tmp_path):
    """Held inputs are this app's first row, the network's first column."""
    path = write_pickle(tmp_path / "net.pkl", contents(network("burgers")))
    checkpoint = Checkpoint(*import_edm(path, "burgers", get_pde("burgers").published_scaling | TURNED), "")
    config = PirfConfig(updates=2, pool=4, pool_steps=(3,), last_steps=2, batch=2, validation=2, warmup=1)
    tuning = PirfTuning(checkpoint, config)
    assert [event.update for event in tuning.run() if hasattr(event, "update")][-1] == 2
    before = tuning.pool.sample[3]
    moved = before + 1.0
    *_, fields = tuning.terms(moved, before)
    assert torch.equal(fields[:, :, 0], tuning.pde.denormalise(before)[:, :, 0])
    torch.testing.assert_close(tuning.pde.normalise(fields)[..., 0], before[..., 0])
    torch.testing.assert_close(fields[:, :, 1:], tuning.pde.denormalise(moved)[:, :, 1:])
    assert tuning.info().normalisation == checkpoint.info.normalisation


@pytest.mark.parametrize(
    ("pde", "options", "named"),
    [
        ("darcy", ["--preset", "published", "--offset", "1,2"], "--offset"),
        ("darcy", ["--preset", "published", "--scale", "1,2"], "--scale"),
        ("darcy", ["--preset", "published", "--offset", "1,2", "--scale", "1,2"], "--offset"),
        ("darcy", ["--preset", "published", "--transpose"], "--transpose"),
        ("darcy", ["--preset", "2m"], "'2m'"),
        ("darcy", ["--parameter", "reynolds=1000"], "darcy has no parameter"),
        ("kolmogorov", ["--parameter", "reynolds"], "NAME=VALUE"),
        ("kolmogorov", ["--parameter", "reynolds=high"], "reynolds must be a number"),
        ("kolmogorov", ["--parameter", "reynolds=-1"], "reynolds must be"),
        ("kolmogorov", ["--parameter", "viscosity=1"], "it has reynolds"),
    ],
)
def test_bad_options(pde, options, named, tmp_path, capsys):
    path = write_pickle(tmp_path / "net.pkl", contents(network(pde)))
    assert named in refused_command(capsys, "models", "import-edm", path, "--pde", pde, *options)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pkl"]


def test_a_benchmark_that_has_no_published_networks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(type(get_pde("darcy")), "published_scaling", None)
    path = write_pickle(tmp_path / "net.pkl", contents(network()))
    assert "darcy" in refused_command(capsys, "models", "import-edm", path, "--pde", "darcy", "--preset", "published")


@every_pde
def test_preset(name, tmp_path, capsys):
    info = read_info(imported(tmp_path, name, "--preset", "published"))
    assert info.normalisation == get_pde(name).published_scaling
    assert info.parameters == dict(get_pde(name).published_parameters)
    assert ("Re = 1000" in capsys.readouterr().out) == (name == "kolmogorov")


def test_numbers_given_beside_the_preset_count_and_the_grid_s_own_are_left_out(tmp_path):
    options = ("--preset", "published", "--parameter", "reynolds=500")
    assert read_info(imported(tmp_path, "kolmogorov", *options)).parameters == {"reynolds": 500.0}
    plain = read_info(imported(tmp_path, "kolmogorov", "--parameter", "reynolds=100", "--transpose"))
    assert plain.parameters == {}
    assert plain.normalisation == get_pde("kolmogorov").normalisation() | TURNED


@every_pde
@pytest.mark.usefixtures("quick_data", "small_models")
def test_import_tune_and_evaluate_by_command_line(name, capsys):
    """A training state, as published networks of the benchmark are; the tuned file lies beside its parent."""
    reference = network(name)
    reference.model.dec["16x16_aux_conv"].weight.data *= 0.1  # else its fields are too large for the solver
    write_saved(Path("state.pt"), training_state(reference))
    assert (
        run("models", "import-edm", "state.pt", "--pde", name, "--preset", "published", "--out", "m.safetensors") == 0
    )
    recipe = [
        "--updates",
        2,
        "--pool",
        4,
        "--pool-steps",
        "3",
        "--batch",
        2,
        "--validation",
        2,
        "--out",
        "t.safetensors",
    ]
    assert run("finetune", "--pde", name, "--from", "m.safetensors", *recipe) == 0
    assert run("finetune", "--pde", name, "--from", "m.safetensors", "--preset", "30s", *recipe) == 0
    Library(Path()).write_manifest()
    capsys.readouterr()
    files = ["--methods", "m.safetensors,t.safetensors"]
    assert run("evaluate", "--pde", name, *files, "--steps", "3", "--n", 2, "--json", "r.json") == 0
    rows = json.loads(Path("r.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["base", "pirf"]
    assert [row.get("parameters", {}) for row in rows] == [dict(get_pde(name).published_parameters)] * 2
    tuned = read_info(Path("t.safetensors"))
    assert tuned.normalisation == get_pde(name).published_scaling
    assert run("sample", "--pde", name, "--method", "t.safetensors", "--steps", 3, "--n", 1) == 0


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("file", ["net.pkl", "state.pt", "./weights.PTH"])
def test_files_of_other_code_bases_are_to_be_imported_first(file, capsys):
    Path(file).write_bytes(b"\x80\x04N.")
    for command in (
        ["sample", "--method", file],
        ["evaluate", "--pde", "darcy", "--methods", f"base,{file}", "--steps", "2", "--n", 2],
        ["finetune", "--from", file],
        ["models", "verify", file],
    ):
        message = refused_command(capsys, *command)
        assert "models import-edm" in message
        assert Path(file).name in message
    refused(Library().load_file, Path(file), kind=InputError)
