"""A job: a request that waits, runs and ends, with its events."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from torch import Tensor

from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.serve.feed import Feed

Kind = Literal["queued", "started", "step", "image", "done", "failed", "cancelled"]
ENDS: tuple[Kind, ...] = ("done", "failed", "cancelled")
EVENTS = 4096
"""Events that a job keeps; older ones are forgotten, so a slow reader never holds up a run."""


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


class Job:
    """A submitted request. Its images are made one by one, so that jobs of many images leave room for others.

    Attributes:
        id: unique in its Engine.
        request: as submitted, with a seed for each image.
        owner: who submitted it.
        interactive: whether someone waits before the screen.
        keeps_states: whether ``states`` is filled.
    """

    def __init__(
        self, id: str, request: Request, images: int, owner: str, *, interactive: bool, keeps_states: bool = True
    ) -> None:
        self.id, self.request, self.owner, self.interactive = id, request, owner, interactive
        self.keeps_states = keeps_states
        self.slot = ""
        """A newer job of the same owner in the same slot cancels this one."""
        self.plan: Plan | None = None
        """The request with nothing left open; None where the job has several."""
        self.feed: Feed | None = None
        """Where its events are told too."""
        self.results: list[Result | None] = [None] * images
        self.states: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(images)]
        """Of each image the latents and clean estimates after each step so far, [1,C,h,w] float32 on the CPU."""
        self.error: BaseException | None = None
        self.submitted = monotonic()
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._ids = itertools.count(1)
        self._turn = threading.Condition()
        self._ended: Kind | None = None
        self._on_cancel: list[Callable[[], None]] = []
        self._cancelling = False

    @property
    def state(self) -> Literal["queued", "running", "done", "failed", "cancelled"]:
        """Where the job is."""
        with self._turn:
            if self._ended is not None:
                return self._ended  # type: ignore[return-value]  # one of ENDS
            return "running" if any(event.kind == "started" for event in self._events) else "queued"

    def result(self, timeout: float | None = None) -> list[Result]:
        """One Result for each image, when all are done.

        Raises:
            TimeoutError: they are not, after so many seconds.
            CancelledError: the job was cancelled.
            Exception: whatever the call has raised, such as InputError.
        """
        with self._turn:
            if not self._turn.wait_for(lambda: self._ended is not None, timeout):
                raise TimeoutError(f"job {self.id} is not done after {timeout} s")
        if self.error is not None:
            raise self.error
        return [result for result in self.results if result is not None]

    def events(self, after: int = 0, timeout: float | None = None) -> Iterator[Event]:
        """Events as they happen, from the one after ``after``; ends with the job, or after a pause of ``timeout``."""
        while True:
            new = self._wait(after, timeout)
            yield from new
            if not new or new[-1].kind in ENDS:
                return
            after = new[-1].id

    def cancel(self) -> None:
        """End the job: at once if it waits, at the next network call of each of its images that run."""
        with self._turn:
            self._cancelling = True
            actions = list(self._on_cancel)
        for action in actions:
            action()

    @property
    def cancelling(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelling

    def when_cancelled(self, action: Callable[[], None]) -> None:
        """Call this when the job is cancelled, or now if it was."""
        with self._turn:
            self._on_cancel.append(action)
            late = self._cancelling
        if late:
            action()

    def tell(self, kind: Kind, image: int | None = None, step: int | None = None, sigma: float | None = None) -> None:
        """Add an event; nothing comes after the end."""
        with self._turn:
            if self._ended is not None:
                return
            event = Event(next(self._ids), kind, image, step, sigma)
            self._events.append(event)
            if kind in ENDS:
                self._ended = kind
            self._turn.notify_all()
            if self.feed is not None:
                self.feed.add(self, event)

    def _wait(self, after: int, timeout: float | None) -> list[Event]:
        with self._turn:
            self._turn.wait_for(lambda: self._newer(after) or self._ended is not None, timeout)
            return self._newer(after)

    def _newer(self, after: int) -> list[Event]:
        return [event for event in self._events if event.id > after]
