"""What is said about a benchmark in words, and how its axes are marked."""

import math
from dataclasses import dataclass

from ...pdes import PDE


@dataclass(frozen=True)
class Axis:
    """An axis of a picture: the coordinate of its first cell's centre, the distance to the next, the coordinates of its
    outer edges, and marks (position, text): both ends, and the axis's name between them."""

    name: str
    first: float
    step: float
    edges: tuple[float, float]
    marks: tuple[tuple[float, str], ...]


def number(value: float) -> str:
    """A coordinate as people write it: 1 -> "1", 2 pi -> "2π"."""
    turns = value / math.pi
    if value and abs(turns - round(turns)) < 1e-9:
        return f"{round(turns) if round(turns) != 1 else ''}π"
    return f"{value:g}"


def axes(pde: PDE, shape: tuple[int, int]) -> tuple[Axis, Axis]:
    """The vertical and the horizontal axis of maps of this shape `[h, w]`."""
    made = []
    for side, (name, extent, wraps, cells) in enumerate(zip(pde.axes, pde.extent, pde.periodic, shape, strict=True)):
        vertices = pde.vertices[side]
        step = extent / (cells - 1 if vertices else cells)
        first = 0.0 if vertices or wraps else step / 2
        low, high = first - step / 2, first + (cells - 0.5) * step
        # The far end of a periodic axis is the first point again, half a cell outside of the picture.
        marks = ((0.0, "0"), (extent / 2, name), (min(extent, high), number(extent)))
        made.append(Axis(name, first, step, (low, high), marks))
    return made[0], made[1]


def has_walls(pde: PDE) -> bool:
    """Whether there is a boundary condition to violate: not where space wraps around."""
    space = pde.periodic[1:] if pde.view == "space-time" else pde.periodic
    return not all(space)


def given(pde: PDE, made: str = "generated") -> str:
    """What the solver is given of a field, and how that was made."""
    if pde.view == "frames":
        return f"{made} {pde.channels[pde.input_channels[0]].title.split(' at ')[-1]}"
    if pde.view == "space-time":
        return f"{made} first row, {pde.axes[0]} = 0"
    return f"{made} " + ", ".join(pde.channels[i].name for i in pde.input_channels)


def typeset(text: str) -> str:
    return text.replace("<=", "≤").replace(">=", "≥").replace("2 pi", "2π")


def with_unit(title: str, unit: str) -> str:
    return title if unit in ("", "1") else f"{title} [{unit}]"


def equation(pde: PDE) -> str:
    """Markdown: the equation, its domain and boundary, the conservation law that samples are held against, and what has
    to be kept in mind."""
    lines = [("Domain", pde.domain), ("Boundary", pde.boundary), ("Conservation", pde.conservation or "no law")]
    lines += [("Note", pde.caveat)] if pde.caveat else []
    return f"$${pde.equation}$$\n\n" + "\n\n".join(f"**{name}** {typeset(text)}" for name, text in lines)
