"""States at the handover: where the frozen model leaves a trajectory and the trained steps begin.

They depend on the frozen model alone, so a pool of them is drawn once and serves the whole run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..common.parallel import Team
from ..diffusion.sampler import Model, Schedule, State, trajectory


@dataclass
class Handovers:
    """By step count of the trajectory, in normalised units: x `[n, c, N, N]`, what the solver remembers of the step
    before (None: nothing), and the sample that ends the same trajectory under the frozen model alone."""

    x: dict[int, Tensor] = field(default_factory=dict)
    memory: dict[int, Tensor | None] = field(default_factory=dict)
    sample: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.x.values()))

    def state(self, steps: int, rows: Tensor | slice) -> State:
        memory = self.memory[steps]
        return State(self.x[steps][rows], None if memory is None else memory[rows])

    def add(self, steps: int, **parts: Tensor | None) -> None:
        for name, new in parts.items():
            known = getattr(self, name)
            before = known.get(steps)
            known[steps] = new if before is None or new is None else torch.cat([before, new])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """For a file, by `name.part.steps`."""
        parts = {f"{name}.{part}.{steps}": x for part in vars(self) for steps, x in getattr(self, part).items()}
        return {key: x for key, x in parts.items() if x is not None}

    @classmethod
    def read(cls, name: str, tensors: dict[str, Tensor], device: torch.device) -> "Handovers":
        """What `tensors` gave."""
        found = cls()
        for key in tensors:
            if key.startswith(f"{name}.x."):
                steps = key.rsplit(".", 1)[-1]
                parts = {part: tensors.get(f"{name}.{part}.{steps}") for part in vars(found)}
                found.add(int(steps), **{k: None if x is None else x.to(device) for k, x in parts.items()})
        return found


@torch.no_grad()
def draw(
    found: Handovers,
    frozen: Model,
    noise: Tensor,
    schedules: list[Schedule],
    last_steps: int,
    chunk: int,
    workers: Team,
) -> Iterator[tuple[int, bool]]:
    """Runs the frozen model from `noise [n, c, N, N]`, shared out over the schedules in turn, `chunk` trajectories at a
    time, and adds the states `last_steps` before the end to `found`; what that holds already is not drawn again.

    Yields after every step how many trajectories are done, and whether `found` has just grown. The
    processes of a team take the chunks in turn, and all get the states of all."""
    jobs = [(s, part) for i, s in enumerate(schedules) for part in noise[i :: len(schedules)].split(chunk) if len(part)]
    while jobs and sum(len(part) for _, part in jobs) > len(noise) - len(found):
        jobs.pop(0)
    while jobs:
        group, jobs = jobs[: workers.size], jobs[workers.size :]
        before, size = len(found), sum(len(part) for _, part in group)
        mine: list[tuple] = []
        for schedule, part in group[workers.rank : workers.rank + 1]:
            for step in trajectory(frozen, part.to(workers.device), schedule):
                if step.step == schedule.steps - last_steps:
                    state = step.state
                if step.step < schedule.steps:
                    yield before + size * step.step // schedule.steps, False
            mine.append((schedule.steps, state.x, state.memory if last_steps > 1 else None, step.x))
        for steps, *parts in workers.gather(mine):
            x, memory, sample = (p if p is None else p.to(workers.device) for p in parts)
            found.add(steps, x=x, memory=memory, sample=sample)
        yield len(found), True
