"""Reads a pickle as data, without Python's unpickler: nothing in it is imported, called or built.

A global is kept as its name, a call as an `Object` that says who was to be called with what. Names that the caller does
not know, and instructions that no ordinary pickle has, are refused.
"""

import pickletools
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from ...common.checks import InputError, shown

MAX_INSTRUCTIONS = 5_000_000  # the published networks have about 60,000
PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
T = TypeVar("T")


class Readable(Protocol):
    """What is asked of a file: an open one, one in memory, or one mapped into it."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def seek(self, offset: int, whence: Literal[0, 1, 2] = ..., /) -> object: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class Name:
    """A global, "module.name"."""

    text: str


@dataclass(eq=False, repr=False)
class Object:
    """What calling `name` with `args` was to make; `state` and `items` what it was to be given afterwards."""

    name: str
    args: tuple
    state: object = None
    items: dict = field(default_factory=dict)


def told(value: object) -> str:
    """A value of the file for a message. `repr` of one that holds itself many times over would take for ever."""
    if isinstance(value, list | tuple):
        parts = [told(v) if not isinstance(v, list | tuple) else "..." for v in value[:8]]
        return f"[{', '.join(parts)}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    plain = isinstance(value, str | int | float | type(None))
    return shown(value) if plain else f"an object of type {type(value).__name__}"


def refuse_persistent(value: object) -> object:
    raise InputError("it has a persistent id outside of a file of torch.save")


def read(file: Readable, known: Set[str], persistent: Callable[[object], object] = refuse_persistent) -> object:
    """The next pickle of `file`, made of plain values, containers, `Name`s (all in `known`) and `Object`s, and of what
    `persistent` makes of its persistent ids.

    Memory is at most a few times what is left of the file. Raises InputError."""
    machine = _Machine(known, persistent)
    try:
        instructions = pickletools.genops(file)  # type: ignore[arg-type]  # its stub wants a whole IO; it reads and tells
        for count, (instruction, argument, _) in enumerate(instructions):
            if count > MAX_INSTRUCTIONS:
                raise InputError(f"it has more than {MAX_INSTRUCTIONS} instructions, far more than a network needs")
            machine.step(instruction.name, argument)
        (value,) = machine.stack
    except InputError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        reason = shown(str(error), 100)
        raise InputError(f"it is damaged or cut short: not a whole pickle ({type(error).__name__}: {reason})") from None
    return value


class _Machine:
    """The pickle machine's stack and memo. Any misuse by the file ends in one of the errors that `read` catches."""

    def __init__(self, known: Set[str], persistent: Callable[[object], object]):
        self.known, self.persistent = known, persistent
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[object, object] = {}

    def step(self, code: str, argument: object) -> None:
        push, pop = self.stack.append, self.stack.pop
        if code in PLAIN:
            push(argument)
        elif code in CONSTANTS:
            push(CONSTANTS[code])
        elif code in EMPTY:
            push(EMPTY[code]())
        elif code in SHORT_TUPLES:
            push(tuple([pop() for _ in range(SHORT_TUPLES[code])][::-1]))
        elif code in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if code == "MEMOIZE" else argument] = self.stack[-1]
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif code == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif code in ("TUPLE", "LIST"):
            values = self.since_mark()
            self.stack.append(tuple(values) if code == "TUPLE" else values)
        elif code in ("APPEND", "APPENDS"):
            values = [pop()] if code == "APPEND" else self.since_mark()
            self.top(list).extend(values)
        elif code in ("ADDITEMS", "FROZENSET"):
            members = set(map(self.key, self.since_mark()))
            if code == "FROZENSET":
                self.stack.append(frozenset(members))
            else:
                self.top(set).update(members)
        elif code in ("SETITEM", "SETITEMS", "DICT"):
            values = [pop(), pop()][::-1] if code == "SETITEM" else self.since_mark()
            if code == "DICT":
                self.stack.append({})
            owner = self.stack[-1]
            target = owner.items if isinstance(owner, Object) else self.expect(owner, dict)
            target.update(zip(map(self.key, values[::2]), values[1::2], strict=True))
        elif code in ("GLOBAL", "INST", "STACK_GLOBAL"):
            module, name = [pop(), pop()][::-1] if code == "STACK_GLOBAL" else self.expect(argument, str).split(" ", 1)
            push(self.name(f"{self.expect(module, str)}.{self.expect(name, str)}"))
        elif code in ("REDUCE", "NEWOBJ"):
            arguments = self.expect(pop(), tuple)
            push(Object(self.expect(pop(), Name).text, arguments))
        elif code == "BUILD":
            state = pop()
            self.top(Object).state = state
        elif code == "BINPERSID":
            push(self.persistent(pop()))
        elif code == "POP":
            pop()
        elif code == "POP_MARK":
            self.since_mark()
        elif code not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"it has the pickle instruction {code}, which no network of this kind needs")

    def name(self, text: str) -> Name:
        if text not in self.known:
            raise InputError(f"it names {shown(text, 80)}, which no network of this kind needs")
        return Name(text)

    def key(self, value: object) -> object:
        # Not a tuple: hashing one that holds itself twice over, many levels deep, takes for ever.
        return self.expect(value, str, int, bytes, type(None))

    def since_mark(self) -> list:
        values, self.stack = self.stack, self.below.pop()
        return values

    def top(self, kind: type[T]) -> T:
        return self.expect(self.stack[-1], kind)

    @staticmethod
    def expect(value: object, *kinds: type[T]) -> T:
        if not isinstance(value, kinds):
            raise TypeError(f"{type(value).__name__} where {kinds[0].__name__} is needed")
        return value
