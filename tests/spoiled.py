"""Checkpoint files changed in one thing, and the sentence that they are refused with."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from pirf_app.models.checkpoint import KEY, CheckpointError


def no_parent(sha256: str):
    raise CheckpointError("there is no parent here")


def refused(call, *args, kind=CheckpointError) -> str:
    with pytest.raises(kind) as error:
        call(*args)
    message = str(error.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return message


def rewrite(path, change_tensors=None, **changes):
    """The file again with tensors or metadata changed."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    if change_tensors:
        tensors = change_tensors(tensors)
    values = json.loads(metadata[KEY]) | changes
    save_file(tensors, path, {KEY: json.dumps({k: v for k, v in values.items() if v is not KeyError})})
    return path


def with_first(tensors: dict, change) -> dict:
    key = "network.out_conv.weight"
    return tensors | {key: change(tensors[key])}


def filled(value: float):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return change
