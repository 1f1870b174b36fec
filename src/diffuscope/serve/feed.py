"""What happens to all jobs of an engine, in one line of events."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffuscope.serve.job import Event, Job

KEPT = 16384
"""Events that are kept; older ones are forgotten, so a slow reader never holds up a run."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event and whose it is."""

    id: int
    """Rises, also from one process to the next."""
    job: "Job"
    event: "Event"


class Feed:
    """A bounded line of events, which any number of readers follow."""

    def __init__(self) -> None:
        self._told: deque[Told] = deque(maxlen=KEPT)
        self._last = time.time_ns() // 1_000_000
        self._turn = threading.Condition()

    @property
    def last(self) -> int:
        """The id of the newest event."""
        with self._turn:
            return self._last

    def add(self, job: "Job", event: "Event") -> None:
        """Add an event at the end."""
        with self._turn:
            self._last += 1
            self._told.append(Told(self._last, job, event))
            self._turn.notify_all()

    def after(self, id: int, timeout: float) -> list[Told]:
        """The events after one, as soon as there are any; none after ``timeout`` seconds."""
        with self._turn:
            self._turn.wait_for(lambda: self._last > id, timeout)
            return [told for told in self._told if told.id > id]
