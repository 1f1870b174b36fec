"""A job: a request that waits, runs and ends, with its events."""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Literal

from torch import Tensor

from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.serve.beside import beside
from diffuscope.serve.branches import Origin
from diffuscope.serve.events import ENDS, Event, Kind, Ring
from diffuscope.types import Step


class Job:
    """A submitted request. Its images are made one by one, so that jobs of many images leave room for others.

    Attributes:
        id: nobody guesses it.
        request: as submitted, with a seed for each image.
        plan: of its images, with nothing left open; None where it has several calls.
        owner: who submitted it.
        interactive: whether someone waits before the screen.
        slot: of its owner, in which only the newest job counts; "" is none.
        label: what a job of several calls is; empty for that of a request.
        origin: the job from which it goes on.
        steps: that are done, of each image.
        seconds: from the beginning of its first image to its end, once it is done.
        states: of each call the latents and clean estimates after each step so far, [B,C,h,w] float32 on the CPU, if
            ``keeps_states``.
    """

    def __init__(
        self,
        request: Request,
        plan: Plan | None,
        images: int,
        owner: str = "",
        *,
        interactive: bool = False,
        slot: str = "",
    ) -> None:
        self.id, self.request, self.plan = secrets.token_hex(8), request, plan
        self.owner, self.interactive, self.slot = owner, interactive, slot
        self.origin: Origin | None = None
        self.results: list[Result | None] = [None] * images
        self.steps = [0] * images
        self.keeps_states = False
        self.label = ""
        self.states: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(images)]
        self.error: BaseException | None = None
        self.submitted = monotonic()
        self.seconds: float | None = None
        self._began = 0.0
        self._ring = Ring()
        self._turn = threading.Condition()
        self._started = False
        self._ended: Kind | None = None
        self._on_cancel: list[Callable[[], None]] = []
        self._watchers: list[Callable[[Event], object]] = []
        self._cancelling = False

    @property
    def state(self) -> Literal["queued", "running", "done", "failed", "cancelled"]:
        """Where the job is."""
        with self._turn:
            if self._ended is not None:
                return self._ended  # type: ignore[return-value]  # one of ENDS
            return "running" if self._started else "queued"

    @property
    def ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._ended is not None

    @property
    def size(self) -> int:
        """Bytes of its results."""
        return sum(_bytes(result) for result in self.results if result is not None)

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

    def _wait(self, after: int, timeout: float | None) -> list[Event]:
        with self._turn:
            self._turn.wait_for(lambda: self._ring.last > after or self._ended is not None, timeout)
            return self._ring.after(after)

    def after(self, id: int) -> list[Event]:
        """The events so far after one, without waiting."""
        with self._turn:
            return self._ring.after(id)

    @contextmanager
    def watched(self, watcher: Callable[[Event], object]) -> Iterator[None]:
        """Call ``watcher`` with each event, in order; it must return at once."""
        with self._turn:
            self._watchers.append(watcher)
        try:
            yield
        finally:
            with self._turn:
                self._watchers.remove(watcher)

    def watch(self, watcher: Callable[[Event], object]) -> None:
        """``watched`` for as long as the job lives."""
        with self._turn:
            self._watchers.append(watcher)

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
            if self._ended is None:
                self._on_cancel.append(action)
            late = self._cancelling
        if late:
            action()

    def keep(self, image: int, step: Step) -> None:
        """Keep the latents and the clean estimate of a step that is done."""
        with beside(step.x.device):
            self.states[image].append((step.x.float().cpu().clone(), step.x0.float().cpu().clone()))

    def tell(self, kind: Kind, image: int | None = None, step: int | None = None, sigma: float | None = None) -> None:
        """Add an event; nothing comes after the end."""
        with self._turn:
            if self._ended is not None:
                return
            if kind == "started" and not self._started:
                self._started, self._began = True, monotonic()
            if kind == "done":
                self.seconds = monotonic() - self._began
            if kind == "step" and image is not None:
                self.steps[image] += 1
            event = self._ring.add(kind, image, step, sigma, self.id)
            if kind in ENDS:
                self._ended = kind
                self._on_cancel.clear()  # they hold the runs, and with them their tensors
            self._turn.notify_all()
            for watcher in self._watchers:  # within the turn, so that all see one order
                watcher(event)


def _bytes(result: Result) -> int:
    array = getattr(result.images, "nbytes", None)
    pixels = sum(3 * each.width * each.height for each in result.images) if array is None else int(array)
    return result.latents.nbytes + pixels
