"""What a benchmark PDE must offer, and the registry that finds it by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor

from ..common.checks import MAX_RESOLUTION, InputError, check_seed, check_whole, shown
from .parameters import Adjustable, Value


@dataclass(frozen=True)
class Channel:
    """One channel of a field: how it is named and drawn, and the statistics that normalise it.

    `is_input` marks what the solver is given (coefficient, source, initial state), as against the solution;
    `mean` and `std` are those of the data in physical units; `positive` asks for a sequential colour map; `basis` is
    the family of functions, along rows and columns, that suits the boundary conditions (`pdes/bases.py`)."""

    name: str
    title: str
    unit: str
    mean: float
    std: float
    is_input: bool
    positive: bool = False
    basis: tuple[str, str] = ("cosine", "cosine")


Measure = Callable[..., Tensor]


def of_fields(measure: Measure, check: Callable[["PDE", Tensor], None]) -> Measure:
    """A method of a benchmark that takes fields, which are checked first."""

    @wraps(measure)
    def checked(self: "PDE", fields: Tensor) -> Tensor:
        check(self, fields)
        return measure(self, fields)

    return checked


class PDE(Adjustable, ABC):
    """One benchmark: data, residual, solver and, if there is one, conservation law in the same discretisation.

    Fields are `[n, c, h, w]` tensors in physical units; every method that takes fields works in their dtype and,
    where it is differentiable, on their device. Square grids only: `h == w == resolution`. Their shape has been checked
    when a method of a benchmark is called (`MEASURES`), and for `solve` that the solver's inputs are finite.
    """

    MEASURES = ("residual", "second_residual", "paper_residual", "error_field", "boundary_violation", "balance")

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        for name in (*cls.MEASURES, "solve"):
            if name in vars(cls):
                check = cls.check_solvable if name == "solve" else cls.check_fields
                setattr(cls, name, of_fields(vars(cls)[name], check))

    name: str
    title: str
    equation: str
    boundary: str
    # What `balance` compares: in a sentence, and in a few words for a table; None where there is no such law.
    conservation: str | None = None
    conservation_short: str | None = None
    # What has to be kept in mind when its figures are read, where there is something.
    caveat: str | None = None
    channels: tuple[Channel, ...]
    # The RMS residual that solver data leaves at most, from 32 points an axis on: rounding, or the error of time steps.
    residual_floor: float = 1e-3
    default_resolution: int = 64
    min_resolution: int = 8
    # What the two axes of a field are, rows first: their names, extents, and whether the domain wraps around there.
    axes: tuple[str, str] = ("y", "x")
    extent: tuple[float, float] = (1.0, 1.0)
    periodic: tuple[bool, bool] = (False, False)
    # Whether grid points lie on the ends of an axis that does not wrap around; else cells fill it.
    vertices: tuple[bool, bool] = (False, False)
    # "steady": every channel is a field of its own; "space-time": rows are time; "frames": channels are times.
    view: str = "steady"
    # Periods along the rows of what the equation itself varies with there (a forcing, the time since the start).
    row_waves: tuple[float, ...] = ()
    # How many fields to train on where the solver is too slow for an endless stream of fresh ones.
    training_pool: int | None = None

    # Of the networks that others have published (None: there are none): the normalisation, as `in_units` takes it.
    published_scaling: dict | None = None

    @property
    @abstractmethod
    def domain(self) -> str:
        """The region, its grid and what else the equation is solved on; for most benchmarks a constant."""

    # How many channels `hints` has in all.
    hint_channels: int = 0

    def hints(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a network may be told of the equation, from a linear estimate of a noisy field `[n, c, N, N]`, in
        normalised units: a guess at the clean field `[n, c, N, N]`, and features `[n, f, N, N]` of order 1."""
        raise NotImplementedError

    @abstractmethod
    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        """Solver data `[n, c, h, w]` float32 on the CPU. Deterministic; sample k does not depend on n."""

    @abstractmethod
    def residual(self, fields: Tensor) -> Tensor:
        """What is left of the PDE at each grid point `[n, h, w]`, differentiable, by the solver's own discretisation;
        zero where no equation is asked for (boundary vertices)."""

    @abstractmethod
    def boundary_violation(self, fields: Tensor) -> Tensor:
        """Per-sample RMS `[n]` of what the boundary conditions ask to be zero, in the solution's unit."""

    def paper_residual(self, fields: Tensor) -> Tensor:
        """The residual `[n, h, w]` as the PIRF authors define it, if they do (`offers`); its floor on solver data is
        far from zero."""
        raise NotImplementedError

    @abstractmethod
    def solve(self, fields: Tensor) -> Tensor:
        """The fields `[n, c, h, w]` that the solver gives for the inputs in `fields`; not differentiable. Raises
        InputError for inputs that are not finite (`check_solvable`)."""

    def balance(self, fields: Tensor) -> Tensor:
        """Per-sample relative violation `[n]` of the PDE's conservation law, if it has one (`offers`)."""
        raise NotImplementedError

    def offers(self, measure: str) -> bool:
        """Whether this benchmark has an optional measure: "balance" or "paper_residual"."""
        return getattr(type(self), measure) is not getattr(PDE, measure)

    @abstractmethod
    def error_field(self, fields: Tensor) -> Tensor:
        """The residual turned into an error of the solution, in units of its standard deviation: `[n, h, w]`,
        differentiable. An inverse of the (mean) operator, so that low frequencies are paid for like high ones."""

    @abstractmethod
    def second_residual(self, fields: Tensor) -> Tensor:
        """The residual `[n, h, w]` by another stencil than the solver's, zero where it is not defined. Never a reward:
        a model that has learnt one stencil by heart shows here. Solver data leaves that stencil's truncation error."""

    def hold_inputs(self, fields: Tensor, reference: Tensor) -> Tensor:
        """`fields` with the solver's inputs (coefficient, source, first row, first frame) taken from `reference`."""
        if self.view == "space-time":
            return torch.cat([reference[:, :, :1], fields[:, :, 1:]], 2)
        inputs = self.input_channels
        return torch.stack([(reference if i in inputs else fields)[:, i] for i in range(fields.shape[1])], 1)

    def inputs(self, fields: Tensor) -> Tensor:
        """The part of `fields` that the solver is given, `[n, ...]`: the input channels, or the first row in time."""
        return fields[:, :, 0] if self.view == "space-time" else fields[:, self.input_channels]

    def solve_error(self, fields: Tensor, solution: Tensor | None = None) -> Tensor:
        """Forward-solve error `[n]`: ||u - S|| / ||S|| over the solution channels, S the solver on the generated
        input (`solution`, if it is at hand)."""
        channels = self.solution_channels
        exact = (self.solve(fields) if solution is None else solution)[:, channels].flatten(1)
        return (fields[:, channels].flatten(1) - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-30)

    # Whether `error_field` inverts a mean operator, not the sample's own: a coefficient is among the inputs.
    mean_operator: bool = False

    # Symmetries of the equation, its domain and the distribution of its data: `transform` applies number 0 to this - 1.
    symmetries: int = 1

    def transform(self, fields: Tensor, k: int) -> Tensor:
        """`fields [n, c, N, N]` under symmetry number k; 0 is the identity."""
        return fields

    def turned(self, x: Tensor, k: int) -> Tensor:
        """`transform` of normalised fields."""
        return self.transform(x, k)

    def turned_change(self, x: Tensor, k: int) -> Tensor:
        """`transform` of the difference of two normalised fields, in which no offset is left."""
        return self.transform(x, k)

    def interior(self, field: Tensor) -> Tensor:
        """The part of a `[n, h, w]` map where the equation holds."""
        return field

    @property
    def solution_channels(self) -> list[int]:
        return [i for i, c in enumerate(self.channels) if not c.is_input]

    @property
    def input_channels(self) -> list[int]:
        return [i for i, c in enumerate(self.channels) if c.is_input]

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensor([c.mean for c in self.channels], dtype=like.dtype, device=like.device)
        std = torch.tensor([c.std for c in self.channels], dtype=like.dtype, device=like.device)
        return mean.view(-1, 1, 1), 2 * std.view(-1, 1, 1)

    def normalise(self, fields: Tensor) -> Tensor:
        """Physical units to zero mean and standard deviation 0.5 per channel, what the denoiser works in."""
        mean, scale = self._statistics(fields)
        return (fields - mean) / scale

    def denormalise(self, x: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        mean, scale = self._statistics(x)
        return x * scale + mean

    def normalisation(self) -> dict:
        """The constants of `normalise`, as a checkpoint keeps them: it fits no other."""
        return {"mean": [c.mean for c in self.channels], "std": [c.std for c in self.channels]}

    # What the arrays of published data sets are called, by channel.
    published_names: Mapping[str, tuple[str, ...]] = {}

    @property
    def reinterpretation(self) -> str:
        """What `reinterpreted` is a share of, and how those are read: the end of a sentence."""
        return "the inputs are read as other values"

    def reinterpreted(self, fields: Tensor) -> Tensor:
        """Per-sample share `[n]` of the inputs' values that the equation does not take as they are, but for another
        value: 0 unless a benchmark says otherwise."""
        return fields.new_zeros(len(fields))

    def check_solvable(self, fields: Tensor) -> None:
        """`check_fields`; raises InputError, naming the sample, where the solver's inputs are not all finite."""
        self.check_fields(fields)
        good = self.inputs(fields).flatten(1).isfinite().all(1)
        if not good.all():
            bad = int(good.logical_not().nonzero()[0])
            raise InputError(f"sample {bad} has inputs that are not finite numbers, so it has no solution")

    def check_fields(self, fields: Tensor) -> None:
        """Raises InputError unless `fields` is `[n, c, N, N]` with this PDE's channels."""
        c = len(self.channels)
        if fields.ndim != 4 or fields.shape[1] != c or fields.shape[2] != fields.shape[3]:
            raise InputError(f"{self.name} fields must have shape [n, {c}, N, N], not {list(fields.shape)}")

    def check_request(self, n: int, resolution: int, seed: int) -> None:
        """Raises InputError unless `generate` can meet the request."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"n must be a whole number of at least 1, not {shown(n)}")
        check_whole("resolution", resolution, self.min_resolution, MAX_RESOLUTION)
        check_seed(seed)


_REGISTRY: dict[str, PDE] = {}


def register(cls: type[PDE]) -> type[PDE]:
    """Class decorator: makes one instance available under `cls.name`."""
    _REGISTRY[cls.name] = cls()
    return cls


def get_pde(name: str, parameters: Mapping[str, Value] | tuple[tuple[str, Value], ...] = ()) -> PDE:
    """The PDE registered as `name`, `with_parameters`. Raises InputError, naming those there are."""
    if not isinstance(name, str) or name not in _REGISTRY:
        raise InputError(f"unknown PDE {shown(name)}: choose one of {', '.join(_REGISTRY)}")
    return _REGISTRY[name].with_parameters(dict(parameters) if isinstance(parameters, tuple) else parameters)


def pde_names() -> list[str]:
    return list(_REGISTRY)
