"""Data-parallel work under `accelerate launch`: every process takes its share, sums are exchanged, process 0 speaks.

Without a launcher there is a team of one, and nothing here does anything. All processes run the same program; what a
share is taken from (noise, rows of a pool) is drawn alike by all of them, so that the union of the shares is what one
process would work on.
"""

import atexit
import os
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn


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
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            tensors = [*figures, *(parameter.grad for parameter in parameters)]
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))


ALONE = Team()


def alone_on(device: str | torch.device) -> Team:
    """A team of one on a device ("cpu", "cuda")."""
    return Team(device=torch.device(device))


@cache
def team() -> Team:
    """The team that a launcher has made this process a member of."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    atexit.register(state.destroy_process_group)  # a process that ends with the group's threads at work may abort
    return Team(state.process_index, state.num_processes, state.device)
