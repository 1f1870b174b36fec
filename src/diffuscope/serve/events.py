"""What happens to jobs, kept for readers that come late, come again, or are slow: nothing waits for them.

Steps are many and soon stale, so they have a short memory of their own; what a reader misses of the rest is told.
"""

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

Kind = Literal["queued", "started", "step", "image", "done", "failed", "cancelled"]
ENDS: tuple[Kind, ...] = ("done", "failed", "cancelled")

STEPS, OTHERS = 1024, 4096
"""Events that are kept: steps, and all others."""

OWNERS = 256
"""Owners whose events are kept, the last ones."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    id: int
    """Rises by one; a reader continues after the last that it has seen."""
    kind: Kind
    image: int | None = None
    """Index of the image, for "started", "step" and "image"."""
    step: int | None = None
    sigma: float | None = None
    """Noise level after the step."""
    job: str = ""


class Ring:
    """Events in order, of which old ones are forgotten: steps first. Not thread-safe."""

    def __init__(self, steps: int = STEPS, others: int = OTHERS) -> None:
        self.last = 0
        """Id of the newest event."""
        self.forgotten = 0
        """Id of the newest that is forgotten and was no step."""
        self._steps: deque[Event] = deque(maxlen=steps)
        self._others: deque[Event] = deque(maxlen=others)

    def add(
        self, kind: Kind, image: int | None = None, step: int | None = None, sigma: float | None = None, job: str = ""
    ) -> Event:
        """Append an event, and return it."""
        self.last += 1
        event = Event(self.last, kind, image, step, sigma, job)
        kept = self._steps if kind == "step" else self._others
        if kept is self._others and len(kept) == kept.maxlen:
            self.forgotten = kept[0].id
        kept.append(event)
        return event

    def after(self, id: int) -> list[Event]:
        """The events after ``id`` that are kept."""
        newer = [event for kept in (self._steps, self._others) for event in _newest(kept, id)]
        return sorted(newer, key=lambda event: event.id)


def _newest(kept: deque[Event], id: int) -> Iterator[Event]:
    return takewhile(lambda event: event.id > id, reversed(kept))


class Events:
    """The events of all jobs, by owner. A position in them is ``run-number``, and holds for this process only."""

    def __init__(self, steps: int = STEPS, others: int = OTHERS) -> None:
        self.run = secrets.token_hex(4)
        self._sizes = steps, others
        self._rings: OrderedDict[str, Ring] = OrderedDict()
        self._listeners: dict[str, list[Callable[[], object]]] = {}
        self._lock = threading.Lock()
        self.closed = False
        """Whether nothing more comes."""

    def close(self) -> None:
        """End the streams of all readers."""
        with self._lock:
            self.closed = True
            listeners = [listener for own in self._listeners.values() for listener in own]
        for listener in listeners:
            listener()

    def tell(self, owner: str, job: str, event: Event) -> None:
        """Add an event of a job, and call those who listen."""
        with self._lock:
            self._ring(owner).add(event.kind, event.image, event.step, event.sigma, job)
            listeners = list(self._listeners.get(owner, ()))
        for listener in listeners:
            listener()

    def after(self, owner: str, position: str) -> tuple[list[Event], bool]:
        """The events after a position, and whether some that were no steps are missing, so that one has to ask anew."""
        with self._lock:
            ring = self._ring(owner)
            run, _, number = position.partition("-")
            known = run == self.run and number.isdecimal() and len(number) < 16 and int(number) <= ring.last
            id = int(number) if known else 0
            return ring.after(id), not known or id < ring.forgotten

    def position(self, owner: str) -> str:
        """That of the newest event."""
        with self._lock:
            return self.at(self._ring(owner).last)

    def at(self, id: int) -> str:
        """The position of an event."""
        return f"{self.run}-{id}"

    @contextmanager
    def listening(self, owner: str, listener: Callable[[], object]) -> Iterator[None]:
        """Call ``listener`` after each event of an owner; it must return at once."""
        with self._lock:
            self._listeners.setdefault(owner, []).append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners[owner].remove(listener)
                if not self._listeners[owner]:
                    del self._listeners[owner]

    def _ring(self, owner: str) -> Ring:
        if owner not in self._rings:
            self._rings[owner] = Ring(*self._sizes)
            idle = (name for name in self._rings if name not in self._listeners and name != owner)
            if len(self._rings) > OWNERS and (oldest := next(idle, None)) is not None:
                del self._rings[oldest]
        self._rings.move_to_end(owner)
        return self._rings[owner]
