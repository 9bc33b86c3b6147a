"""Who computes, and where: the device; and data-parallel work under `accelerate launch`, where every process takes its
share, sums are exchanged, and process 0 speaks.

Without a launcher there is a team of one, on the device that was asked for. All processes run the same program; what a
share is taken from (noise, rows of a pool) is drawn alike by all of them, so that the union of the shares is what one
process would work on.
"""

import atexit
import os
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from .checks import InputError, shown

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Team:
    """This process among `size`, on its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of `rows [n, ...]`: consecutive ones, as many as the others have or one more or less."""
        return rows.tensor_split(self.size)[self.rank]

    def gather(self, items: list) -> list:
        """The items of all processes, in their order. Tensors come back on the device that they were on."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def add(self, parameters: list[nn.Parameter], *figures: Tensor) -> None:
        """Replaces every gradient, and every tensor of figures, with its sum over the processes: the same bits on each.
        A process whose share was empty has no gradients."""
        if self.size > 1:
            tensors = list(figures)
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                tensors.append(parameter.grad)
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))


ALONE = Team()


def check_device(name: str) -> str:
    """`name` itself if it is in `DEVICES`. Raises InputError."""
    if name not in DEVICES:
        raise InputError(f"the device must be one of {', '.join(DEVICES)}, not {shown(name)}")
    return name


def alone_on(device: str | torch.device) -> Team:
    """A team of one on a device: one of `DEVICES`, of which "auto" is a GPU where there is one, or the device itself.
    Raises InputError for one that is not here."""
    if isinstance(device, torch.device):
        return Team(device=device)
    there = torch.cuda.is_available()
    if check_device(device) == "cuda" and not there:
        raise InputError("there is no CUDA device here: choose --device cpu, or auto")
    return Team(device=torch.device("cuda" if there and device != "cpu" else "cpu"))


def team(device: str = "auto") -> Team:
    """The team that a launcher has made this process a member of, on the device that it has given it; without a
    launcher, a team of one on `device`. Raises InputError for a device that is not here, or not the launcher's."""
    check_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found = launched()
    elif os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1"):  # by `accelerate launch --cpu`
        found = alone_on("cpu")
    else:
        return alone_on(device)
    if device not in ("auto", found.device.type):
        raise InputError(f"the launcher has given this process the device {found.device.type}: leave out --device")
    return found


def device_name(device: torch.device) -> str:
    """What a report calls a device: the name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def launched() -> Team:
    """The team of several that a launcher has made this process a member of."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    atexit.register(state.destroy_process_group)  # a process that ends with the group's threads at work may abort
    return Team(state.process_index, state.num_processes, state.device)
