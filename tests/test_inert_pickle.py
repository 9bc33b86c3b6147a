"""Pickles from elsewhere: nothing in the file is ever executed, and what is no network is refused in words."""

import builtins
import io
import os
import pickle
import pickletools
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from edm_files import network, refused, run
from edm_reference import Persistent, SongUNet, contents, write_pickle

from pirf_app.common.checks import InputError
from pirf_app.models.edm import network as edm_import
from pirf_app.models.edm import pickle_reader as inert_pickle
from pirf_app.models.edm.pickle_reader import Object, read
from pirf_app.models.edm.tensors import storage
from pirf_app.models.edm.torch_files import LEGACY_MAGIC, LEGACY_VERSION


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Unknown:
    """A class that no network needs."""


builtins_lambda = lambda: open("canary", "w").close()  # noqa: E731
globals()["<lambda>"] = builtins_lambda  # pickle finds a function under the name that it has


FORBIDDEN = {
    "posix.system": Call(os.system, "touch canary"),
    "builtins.eval": Call(builtins.eval, "open('canary', 'w')"),
    "builtins.exec": Call(builtins.exec, "open('canary', 'w')"),
    "builtins.getattr": Call(getattr, "", "format"),
    "subprocess.Popen": Call(subprocess.Popen, ["touch", "canary"]),
    "torch.serialization.load": Call(torch.load, "other.pt"),
    "<lambda>": Call(builtins_lambda),
    "Unknown": Unknown(),
    "torch.nn.modules.activation.SiLU": torch.nn.SiLU(),
}


@pytest.mark.skipif(os.name != "posix", reason="os.system has another name")
@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.parametrize("place", ["beside", "inside", "in a storage"])
def test_other_names_are_refused_and_nothing_runs(name, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Persistent, "source", "open('canary', 'w').close()")
    reference, thing = network(), FORBIDDEN[name]
    content = contents(reference)
    if place == "beside":
        content["augment_pipe"] = thing
    elif place == "inside":
        reference.model.enc["16x16_block0"].extra = thing
    else:
        hidden = Call(torch.storage._load_from_bytes, pickle.dumps(thing))
        stored = Call(torch._utils._rebuild_tensor_v2, hidden, 0, (8,), (1,), False, OrderedDict())
        reference.model.dec["16x16_aux_norm"].__dict__["_parameters"]["bias"] = stored
    write_pickle(tmp_path / "net.pkl", content)
    code, message = run("models", "import-edm", "net.pkl", "--pde", "darcy", capsys=capsys)
    assert code == 2
    assert name in message
    assert message.count("\n") == 1
    assert os.listdir(tmp_path) == ["net.pkl"]


def test_source_in_the_file_is_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Persistent, "source", "open('canary', 'w').close()")
    write_pickle(tmp_path / "net.pkl", contents(network()))
    assert b"canary" in (tmp_path / "net.pkl").read_bytes()
    assert run("models", "import-edm", "net.pkl", "--pde", "darcy", capsys=capsys)[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["net.pkl", "net.safetensors"]


@pytest.mark.parametrize(
    "code", [b"cos\nsystem\n(S'touch canary'\ntR.", b"(S'touch canary'\nios\nsystem\n.", b"\x82\x01."]
)
def test_other_ways_to_name_a_function(code, tmp_path):
    (tmp_path / "net.pkl").write_bytes(code)
    message = refused(tmp_path / "net.pkl")
    assert "os.system" in message or "EXT1" in message or "STRING" in message


@pytest.mark.parametrize("keep", [0, 1, 2, 100, 0.2, 0.5, 0.9, -1])
def test_truncated(keep, tmp_path, capsys):
    path = write_pickle(tmp_path / "net.pkl", contents(network()))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert "cut short" in (message := refused(path)) or keep == 0
    assert run("models", "import-edm", path, "--pde", "darcy", capsys=capsys) == (2, f"Error: {message}\n")
    assert os.listdir(tmp_path) == ["net.pkl"]


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"N.")
    return file.getvalue()


def doubled(levels: int) -> bytes:
    """A tuple that holds itself twice over, `levels` deep, as a key: hashing it would take 2^levels steps."""
    steps = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(levels))
    return b"\x80\x04})\x94" + steps + b"Ns."


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is a text file\n" * 100,
        b"\xff" * 64,
        zipped(),
        pickle.dumps({}),
        pickle.dumps([1, 2]),
        pickle.dumps({"ema": None}),
        pickle.dumps({"ema": {"weight": 1}}),
        pickle.dumps({1: 2}),
        pickle.dumps({"ema": np.float64(3)}),
        b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"x.",  # bytes of an absurd length
        b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x.",
        b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        doubled(60),
        b"(" * 10000 + b".",
        b"\x80\x04" + b"]" * 3 + b"." * 5,
        b"\x80\x04]\x94h\x00a.",
        b"t.",
        b"R.",
        b"b.",
        b"",
    ],
    ids=lambda content: repr(content[:10]),  # a zip goes on with the time: both processes must find the same names
)
def test_other_files(content, tmp_path):
    (tmp_path / "net.pkl").write_bytes(content)
    refused(tmp_path / "net.pkl")


def test_missing_file_and_folder(tmp_path, capsys):
    for path in (tmp_path / "none.pkl", tmp_path):
        code, message = run("models", "import-edm", path, "--pde", "darcy", "--out", "a.safetensors", capsys=capsys)
        assert (code, message.count("\n")) == (2, 1)


def test_absurd_sizes(tmp_path, monkeypatch):
    path = write_pickle(tmp_path / "net.pkl", contents(network()))
    monkeypatch.setattr(edm_import, "MAX_BYTES", 1000)
    assert "MB" in refused(path)
    monkeypatch.setattr(inert_pickle, "MAX_INSTRUCTIONS", 1000)
    assert "instructions" in refused(path)
    with open(path, "r+b") as file:
        file.truncate(edm_import.MAX_FILE + 1)  # a sparse file
    assert "1000.0 MB" in refused(path)


def storage_of(tensor: torch.Tensor) -> Call:
    file = io.BytesIO()
    torch.save(
        torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True),
        file,
        _use_new_zipfile_serialization=False,
    )
    return Call(torch.storage._load_from_bytes, file.getvalue())


def rebuilt(tensor: torch.Tensor, size: tuple, stride: tuple, offset=0, stored: object = None) -> Call:
    stored = stored or storage_of(tensor)
    return Call(torch._utils._rebuild_tensor_v2, stored, offset, size, stride, False, OrderedDict())


def cut_storage() -> Call:
    (content,) = storage_of(torch.ones(8)).reduced[1]
    return Call(torch.storage._load_from_bytes, content[:-4])


def keyed_storage(key: bytes) -> Call:
    """The storage of ONES, under the key that these instructions make."""
    (content,) = storage_of(ONES).reduced[1]
    data = content[-8 - 4 * 8 :]
    head = b"".join(pickle.dumps(part) for part in (LEGACY_MAGIC, LEGACY_VERSION, {"little_endian": True}))
    reference = b"\x80\x04(\x8c\x07storagectorch\nFloatStorage\n" + key + b"\x8c\x03cpuK\x08NtQ."
    return Call(torch.storage._load_from_bytes, head + reference + b"\x80\x04]" + key + b"a." + data)


ONES = torch.ones(8)
TENSORS = {
    "size": rebuilt(ONES, (2**50,), (0,)),
    "broadcast": rebuilt(ONES, (2**20,), (0,)),
    "one too many": rebuilt(ONES, (9,), (1,)),
    "long stride": rebuilt(ONES, (8,), (2,)),
    "offset": rebuilt(ONES, (8,), (1,), 1),
    "negative stride": rebuilt(ONES, (8,), (-1,), 7),
    "negative offset": rebuilt(ONES, (8,), (1,), -1),
    "fraction": rebuilt(ONES, (8.0,), (1,)),
    "strides": rebuilt(ONES, (8,), (1, 1)),
    "dimensions": rebuilt(ONES, (8,) + (1,) * 20, (1,) * 21),
    "huge number": rebuilt(ONES, (10**6000,), (1,)),
    "text": rebuilt(ONES, "8", "1"),
    "cut storage": rebuilt(ONES, (8,), (1,), stored=cut_storage()),
    "empty storage": rebuilt(ONES, (8,), (1,), stored=Call(torch.storage._load_from_bytes, b"")),
    "other storage": rebuilt(ONES, (8,), (1,), stored=Call(torch.storage._load_from_bytes, pickle.dumps(1) * 5)),
    "key that holds itself": rebuilt(ONES, (8,), (1,), stored=keyed_storage(b"]\x94h\x00a")),
    "deep key": rebuilt(ONES, (8,), (1,), stored=keyed_storage(b"]" * 100_000 + b"a" * 99_999)),
    "no storage": rebuilt(ONES, (8,), (1,), stored=3),
    "a number": 3,
    "a word": "weights",
    "an array": np.ones(8),
    "shape": torch.ones(4),
    "another dimension": torch.ones(8, 8),
    "nan": torch.full((8,), float("nan")),
    "infinite": torch.tensor([1.0] * 7 + [float("inf")]),
    "over single precision": torch.full((8,), 1e300, dtype=torch.float64),
}


@pytest.mark.parametrize("what", TENSORS)
def test_one_tensor_is_not_what_it_should_be(what, tmp_path):
    reference = network()
    reference.model.dec["16x16_aux_norm"].__dict__["_parameters"]["bias"] = TENSORS[what]
    refused(write_pickle(tmp_path / "net.pkl", contents(reference)))


def test_a_storage_s_key_is_text():
    name, arguments = "torch.storage._load_from_bytes", keyed_storage(b"\x8c\x010").reduced[1]
    assert torch.equal(storage(Object(name, arguments)), ONES)


def test_reader_keeps_plain_values():
    """What ordinary pickles hold comes back as it was, in every protocol."""
    value = {"a": [1, -2, 2**70, 1.5, True, None], "b": ("x", "ü", (), (1,), (1, 2), (1, 2, 3)), "c": {1, 2}, "d": {}}
    value |= {"e": b"12" * 200, "f": "long" * 100, "g": frozenset("ab"), "h": -1.0, "i": list(range(3000))}
    value["j"] = [value["a"], value["a"]]
    for protocol in (4, 5):
        assert read(io.BytesIO(pickle.dumps(value, protocol)), frozenset()) == value
        optimised = pickletools.optimize(pickle.dumps(value, protocol))
        assert read(io.BytesIO(optimised), frozenset()) == value
    with pytest.raises(InputError):
        read(io.BytesIO(pickle.dumps(SongUNet)), frozenset())
