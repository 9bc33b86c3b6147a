"""Networks as torch.save writes them, whole, in a training state or as a state dictionary: the same function after
import, or a refusal; nothing in the file is executed, and no size in it is believed."""

import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from edm_files import network, refused, run
from edm_reference import Persistent, training_state, write_pickle, write_saved
from test_inert_pickle import FORBIDDEN

from pirf_app.diffusion.sampler import initial_noise
from pirf_app.models.edm import torch_files
from pirf_app.models.edm.network import import_edm


def state(prefix: str = "model.", seed: int = 0) -> dict:
    return {f"{prefix}{name}": part for name, part in network(seed=seed).model.state_dict().items()}


CONTENTS = {
    "training state": lambda: training_state(network()),
    "average beside it": lambda: training_state(network(seed=1)) | {"ema": network()},
    "no average yet": lambda: training_state(network()) | {"ema": None},
    "the network itself": network,
    "state": lambda: network().state_dict(),
    "state without a wrapper": lambda: state(""),
    "state of a parallel network": lambda: state("module.model."),
    "state under ema": lambda: {"ema": state(), "net": state(seed=1), "step": 7},
    "state under net": lambda: {"net": state(), "optimizer": {}},
    "state under state_dict": lambda: {"state_dict": OrderedDict(state()), "epoch": 3},
}
WRITERS = {
    "zip": write_saved,
    "legacy": lambda path, content: write_saved(path, content, legacy=True),
    "pickle": write_pickle,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("what", CONTENTS)
def test_imported_network_is_the_same_function(what, writer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Persistent, "source", "open('canary', 'w').close()")
    path = WRITERS[writer](tmp_path / "net.pt", CONTENTS[what]())
    model, info = import_edm(path, "darcy")
    x, sigma = initial_noise(2, (2, 16, 16), 1), torch.tensor([0.3, 2.0])
    torch.testing.assert_close(model(x, sigma), network()(x, sigma), atol=1e-5, rtol=1e-5)
    assert ("state dictionary" in info.recipe["imported"]["classes"]) == what.startswith("state")
    assert os.listdir(tmp_path) == ["net.pt"]


def test_command_makes_a_checkpoint_of_a_training_state(tmp_path, capsys):
    path = write_saved(tmp_path / "training-state-000100.pt", training_state(network()))
    assert run("models", "import-edm", path, "--pde", "darcy", capsys=capsys)[0] == 0
    assert run("models", "verify", path.with_suffix(".safetensors"), capsys=capsys)[0] == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_weights_that_share_a_storage(kind, tmp_path):
    """As an optimiser leaves them that works on one flat array."""
    reference = network().to(kind)
    flat = torch.cat([torch.zeros(5, dtype=kind), *(p.flatten() for p in reference.parameters())])
    at, entries = 5, {}
    for name, part in reference.state_dict().items():
        entries[name] = part
        if not name.endswith("resample_filter"):
            entries[name] = flat[at : at + part.numel()].view(part.shape)
            at += part.numel()
    model, _ = import_edm(write_saved(tmp_path / "net.pth", entries), "darcy")
    plain, _ = import_edm(write_pickle(tmp_path / "net.pkl", reference), "darcy")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "model.dec.8x8_in1.conv0.weight"}, "dec.8x8_in1.conv0.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "model.enc.16x16_conv.weight"}, "enc.16x16_conv"),
        (lambda s: {k: v for k, v in s.items() if "model.enc" not in k}, "encoder"),
        (lambda s: s | {"model.map_label.weight": torch.ones(3, 8)}, "map_label.weight"),
        (lambda s: s | {"model.enc.16x16_block0.scale": 3}, "scale"),
        (lambda s: s | {"model.enc.8x8_down.conv0.resample_filter": torch.ones(1, 1, 2, 2)}, "8x8_down"),
        (lambda s: s | {"model.map_layer0.bias": torch.ones(7)}, "map_layer0.bias"),
        (lambda s: {"weights": s}, "'weights'"),
        (lambda s: {"net": torch.ones(3)}, "encoder"),
        (lambda s: {"ema": [s], "net": s}, "table"),
        (lambda s: list(s.values()), "table"),
        (lambda s: {}, "no network"),
        (lambda s: torch.ones(3), "table"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_missing_or_too_much_is_named(change, named, legacy, tmp_path):
    assert named in refused(write_saved(tmp_path / "net.pth", change(state()), legacy))


@pytest.mark.skipif(os.name != "posix", reason="os.system has another name")
@pytest.mark.parametrize("name", [name for name in FORBIDDEN if name != "<lambda>"])
@pytest.mark.parametrize("legacy", [False, True])
def test_other_names_are_refused_and_nothing_runs(name, legacy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_saved(tmp_path / "net.pt", training_state(network()) | {"more": FORBIDDEN[name]}, legacy)
    code, message = run("models", "import-edm", "net.pt", "--pde", "darcy", capsys=capsys)
    assert code == 2
    assert name.rpartition(".")[2] in message  # its module may have had another name in Python 2
    assert message.count("\n") == 1
    assert os.listdir(tmp_path) == ["net.pt"]


def rewritten(path: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive again with its parts, bytes by name, changed."""
    with zipfile.ZipFile(path) as archive:
        found = change({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in found.items():
            archive.writestr(name, content)
    return path


def inside(name: str, change):
    return lambda parts: parts | {f"net/{name}": change(parts[f"net/{name}"])}


ARCHIVES = {
    "a storage is missing": (lambda parts: {k: v for k, v in parts.items() if k != "net/data/3"}, "storage '3'"),
    "a storage is cut": (inside("data/3", lambda content: content[:-4]), "bytes that does not hold"),
    "a storage is too long": (inside("data/3", lambda content: content + b"1234"), "bytes that does not hold"),
    "a storage is empty": (inside("data/3", lambda content: b""), "bytes that does not hold"),
    "big-endian": (inside("byteorder", lambda content: b"big"), "little-endian"),
    "two pickles": (lambda parts: parts | {"other/data.pkl": b"N."}, "2 files data.pkl"),
    "no pickle": (lambda parts: {k: v for k, v in parts.items() if not k.endswith(".pkl")}, "0 files data.pkl"),
    "deeper": (lambda parts: {f"a/{k}": v for k, v in parts.items()}, "0 files data.pkl"),
    "at the top": (lambda parts: {k.removeprefix("net/"): v for k, v in parts.items()}, "0 files data.pkl"),
    "elsewhere": (
        lambda parts: {k.replace("/data/", "/../data/"): v for k, v in parts.items()},
        "lacks the tensor storage",
    ),
    "pickle is cut": (inside("data.pkl", lambda content: content[:-100]), "cut short"),
    "nothing": (lambda parts: {}, "0 files data.pkl"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_are_not_whole(what, tmp_path):
    change, named = ARCHIVES[what]
    path = write_saved(tmp_path / "net.pt", state())
    import_edm(rewritten(path, dict), "darcy")  # as it is, it is read
    assert named in refused(rewritten(path, change))


def test_compressed_archive(tmp_path):
    path = write_saved(tmp_path / "net.pt", state())
    assert "compressed" in refused(rewritten(path, dict, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "net.zip", "w", zipfile.ZIP_DEFLATED) as archive:  # a bomb
        archive.writestr("net/data.pkl", bytes(10**7))
    assert "compressed" in refused(tmp_path / "net.zip")


@pytest.mark.parametrize("keep", [2, 21, 22, 100, 0.2, 0.5, 0.9, -1])
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated(keep, legacy, tmp_path):
    path = write_saved(tmp_path / "net.pt", training_state(network()), legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert "cut short" in refused(path)


DIRECTORY = "<4s6H3L5H2L"  # of a part, in an archive's directory


def directory(path: Path, name: str, change) -> Path:
    """The archive with what its directory says of a part changed; what the part itself says stays."""
    content = bytearray(path.read_bytes())
    at = content.rindex(name.encode()) - struct.calcsize(DIRECTORY)
    struct.pack_into(DIRECTORY, content, at, *change(list(struct.unpack_from(DIRECTORY, content, at))))
    path.write_bytes(content)
    return path


def put(**values):
    places = {"flags": 3, "method": 4, "packed": 8, "size": 9, "name": 10, "offset": 16}

    def change(fields: list) -> list:
        for key, value in values.items():
            fields[places[key]] = value
        return fields

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put(flags=1), "encrypted"),
        (put(flags=0x2041), "encrypted"),
        (put(method=8), "compressed"),
        (put(size=2**32 - 1), "compressed"),
        (put(size=2**32 - 1, packed=2**32 - 1), "zip archive"),
        (put(size=10**6, packed=10**6), "zip archive"),
        (put(size=68, packed=68), "does not hold"),
        (put(offset=2**32 - 1), "zip archive"),
        (put(offset=0), "zip archive"),
        (put(offset=7), "zip archive"),
        (put(name=2**16 - 1), "zip archive"),
        (put(name=0), "zip archive"),
    ],
)
def test_directories_that_lie(change, named, tmp_path):
    path = rewritten(write_saved(tmp_path / "net.pt", state()), dict)
    assert named in refused(directory(path, "net/data/3", change))


def test_end_of_an_archive_that_lies(tmp_path):
    path = rewritten(write_saved(tmp_path / "net.pt", state()), dict)
    whole = path.read_bytes()
    for at, kind, value in [
        (8, "<H", 1),
        (10, "<H", 2**16 - 1),
        (12, "<L", 2**32 - 1),
        (16, "<L", 2**32 - 1),
        (20, "<H", 9),
    ]:
        content = bytearray(whole)
        struct.pack_into(kind, content, len(whole) - 22 + at, value)
        path.write_bytes(content)
        assert "zip archive" in refused(path)


def test_the_same_bytes_are_not_many_storages(tmp_path):
    """A small file must not become gigabytes: its directory lists parts that lie within one another, each with a header
    of its own, as if they were beside one another."""
    headers, names = [], [f"net/data/{i}" for i in range(100)]
    for i, name in enumerate(names):
        with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
            archive.writestr(name, b"")
        headers.append((tmp_path / "part.zip").read_bytes()[: 30 + len(name)])
        assert headers[i].endswith(name.encode())
    inner, size = b"".join(headers[1:]) + bytes(10**5), {}
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"N.")
        archive.writestr(names[0], inner)
        (whole,) = (info for info in archive.infolist() if info.filename == names[0])
        at = whole.header_offset + len(headers[0])
        for name, header in zip(names[1:], headers[1:], strict=True):
            part = zipfile.ZipInfo(name)
            part.header_offset, at = at, at + len(header)
            part.file_size = part.compress_size = 10**5
            part.CRC = 0
            archive.filelist.append(part)
            size[name] = part.file_size
    assert sum(size.values()) > 50 * (tmp_path / "net.pt").stat().st_size
    assert "zip archive that is cut short" in refused(tmp_path / "net.pt")


def test_limits_of_an_archive(tmp_path, monkeypatch):
    path = write_saved(tmp_path / "net.pt", state())
    monkeypatch.setattr(torch_files, "MAX_PICKLE", 1000)
    assert "data.pkl" in refused(path)
    monkeypatch.setattr(torch_files, "MAX_PARTS", 10)
    assert "parts" in refused(path)
    assert "parts" in refused(rewritten(path, lambda parts: {f"n/{i}": b"" for i in range(11)}))


@pytest.mark.parametrize("more", [b"", b"1", bytes(100)])
def test_legacy_file_ends_with_its_last_storage(more, tmp_path):
    path = write_saved(tmp_path / "net.pt", state(), legacy=True)
    path.write_bytes(path.read_bytes() + more)
    if more:
        assert "more in it" in refused(path)
    else:
        import_edm(path, "darcy")
