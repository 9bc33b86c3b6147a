"""Numbers in an equation, and laws of its data, that belong to a checkpoint where they are not the grid's own."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Self

from ..common.checks import InputError, check_number, shown

Value = float | str  # of a parameter


@dataclass(frozen=True)
class Parameter:
    """What a checkpoint may have its own of: a number in the equation, from `low` to `high`, or the law of its data,
    one of `choices`; and what it is called in a formula, and where it is asked for."""

    name: str
    symbol: str
    title: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()

    def checked(self, value: float | str) -> float | str:
        """`value`, if it is one. Raises InputError."""
        if not self.choices:
            return float(check_number(self.name, value, self.low, self.high))
        if value not in self.choices:
            raise InputError(f"{self.name} must be one of {', '.join(self.choices)}, not {shown(value)}")
        return value


class Adjustable:
    """The part of a benchmark that knows its parameters."""

    name: str
    title: str
    # What published networks have.
    published_parameters: Mapping[str, Value] = {}
    # The numbers in the equation, and the laws of its data, that are not the same for every checkpoint, and those that
    # were given to this one.
    adjustable: tuple[Parameter, ...] = ()
    own_parameters: tuple[tuple[str, Value], ...] = ()

    def default_parameters(self, resolution: int) -> dict[str, Value]:
        """The adjustable values by name, where nobody gives others, for data on a grid of that size."""
        return {}

    def parameters(self, resolution: int) -> dict[str, Value]:
        """The adjustable values by name: those given, else the default ones on a grid of that size."""
        return self.default_parameters(resolution) | dict(self.own_parameters)

    def with_parameters(self, values: Mapping[str, Value]) -> Self:
        """This benchmark with other numbers in its equation on every grid; itself where none are given. Raises
        InputError for a number that the equation has not, or that is out of range."""
        if not isinstance(values, Mapping):
            raise InputError(f"the parameters of {self.name} must be a table of numbers, not {shown(values)}")
        known = {parameter.name: parameter for parameter in self.adjustable}
        if unknown := [name for name in values if name not in known]:
            names = ", ".join(known) or "none"
            raise InputError(f"{self.name} has no parameter {shown(unknown[0])}: it has {names}")
        if not values:
            return self
        made = copy(self)
        given = {name: known[name].checked(value) for name, value in values.items()}
        made.own_parameters = tuple(sorted(given.items()))
        return made

    def differing(self, resolution: int) -> dict[str, Value]:
        """The values given that are not the default ones on a grid of that size: what a checkpoint keeps."""
        default = self.default_parameters(resolution)
        return {name: value for name, value in self.own_parameters if value != default[name]}

    def in_words(self, parameters: Mapping[str, Value]) -> str:
        """Adjustable values as in a formula, "Re = 1000", or as they are called, "log-normal permeability"."""
        known = {parameter.name: parameter for parameter in self.adjustable}
        return ", ".join(
            f"{value} {known[name].symbol}" if known[name].choices else f"{known[name].symbol} = {value:g}"
            for name, value in parameters.items()
        )

    @property
    def full_title(self) -> str:
        """The title, with the numbers that were given."""
        return ", ".join(filter(None, (self.title, self.in_words(dict(self.own_parameters)))))
