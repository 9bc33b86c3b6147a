"""Who computes when: lines that are served in order of arrival, and work that takes its turn piece by piece.

Everything heavy on the page goes through one lane, a piece at a time: a sampler step, or half a second of training. So
a long training slows a sampler down and never shuts it out. In front of the lane, samplers wait in one line and
trainers in another, and each of them can be told how many are ahead.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

SLICE_SECONDS = 0.5
T = TypeVar("T")


class Line:
    """A queue in order of arrival of which the first `capacity` are being served."""

    def __init__(self, capacity: int = 1):
        self.capacity = capacity
        self._places: list[Place] = []
        self._moved = threading.Condition()

    def join(self) -> "Place":
        """A place at the end of the line; `leave` it, or use it as a context manager, which does."""
        place = Place(self)
        with self._moved:
            self._places.append(place)
        return place

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for a turn, and gives it up at the end."""
        with self.join() as place:
            place.wait()
            yield

    @property
    def waiting(self) -> int:
        """How many are not being served yet."""
        return max(0, len(self._places) - self.capacity)


class Place:
    """A place in a line."""

    def __init__(self, line: Line):
        self.line = line

    @property
    def ahead(self) -> int:
        """How many have to leave before this place is served: 0 once it is. Raises ValueError after `leave`."""
        return max(0, self.line._places.index(self) - self.line.capacity + 1)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until served, for at most `timeout` seconds; whether it is."""
        with self.line._moved:
            return self.line._moved.wait_for(lambda: self.ahead == 0, timeout)

    def leave(self) -> None:
        """Makes room for the next one. May be called again."""
        with self.line._moved:
            if self in self.line._places:
                self.line._places.remove(self)
                self.line._moved.notify_all()

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_) -> None:
        self.leave()


class Lanes:
    """The lane of one page and the lines in front of it. On a shared GPU those who compute do not get in each other's
    way, and `lane` is how many may at a time."""

    def __init__(self, trainers: int = 2, lane: int = 1):
        self.lane, self.sampling, self.training = Line(lane), Line(lane), Line(trainers)

    def steps(self, events: Iterator[T]) -> Iterator[T]:
        """`events`, each of them computed in a turn of its own; nothing is held while the reader has an event."""
        while True:
            with self.lane.turn():
                try:
                    event = next(events)
                except StopIteration:
                    return
            yield event

    def slices(self, events: Iterator[T], seconds: float = SLICE_SECONDS) -> Iterator[list[T]]:
        """`events` in lists, each computed in one turn: for up to `seconds`, or until someone else wants the lane."""
        end: BaseException | None = None
        while end is None:
            taken: list[T] = []
            with self.lane.turn():
                start = time.perf_counter()
                while end is None:
                    try:
                        taken.append(next(events))
                    except Exception as error:  # told to the reader after what came before it
                        end = error
                    if self.lane.waiting or time.perf_counter() - start >= seconds:
                        break
            if taken:
                yield taken
        if not isinstance(end, StopIteration):
            raise end

    def do(self, work: Callable[[], T]) -> T:
        """What `work` returns, computed in one turn."""
        with self.lane.turn():
            return work()


def queued(place: Place, every: float = 0.5) -> Iterator[int]:
    """How many are ahead, every so many seconds until the place is served; nothing if that is at once."""
    while not place.wait(0):
        yield place.ahead
        place.wait(every)
