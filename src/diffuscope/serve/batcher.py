"""Network calls of many runs in one: batching where the network stands, not at the sampler's step.

Each run keeps its own sampler, guidance, noise levels and number of steps; only its call of a network waits here until
others have come. One thread makes all calls.
"""

import operator
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TypeVar

import torch
from torch import Tensor

from diffuscope.serve.beside import own_stream
from diffuscope.serve.fair import FLOOR, Lane, held_back

T = TypeVar("T")

WAIT = 0.002
"""Seconds without a new call after which a call waits no longer for other runs, which are about to make theirs."""

HELD = 0.02
"""The same where all that wait are held back."""

AHEAD = 2
"""Calls that the device may have before it: one that it computes and the next."""

FILLED = 0.75
"""Share of the waiting rows from which a call takes fewer of them in place of rows that only fill it up."""

POLL = 0.001
"""Seconds between two looks at whether the device has done a call."""


_Made = tuple[Tensor, torch.cuda.Event | None]
"""What a call has returned, and what happens on a GPU when it is computed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One call of a network: rows of tensors that others may join."""

    key: Hashable
    """Calls of the same key can be one."""
    rows: tuple[Tensor, ...]
    run: Callable[[Sequence[Tensor]], Tensor]
    more: Callable[[], Sequence[Tensor]] | None
    """Further rows, which only the thread of the calls can read."""
    sizes: Sequence[int]
    """Numbers of rows to which a shared call is filled up; none if it is not."""
    lane: Lane
    answer: "Future[_Made]" = field(default_factory=Future)

    def all_rows(self) -> Sequence[Tensor]:
        """Those given and the further ones."""
        return self.rows if self.more is None else (*self.rows, *self.more())


class Batcher:
    """Gathers the calls of several threads; a thread of its own makes them.

    Args:
        rows: most rows of one call, unless a single run has more.
        alone: make each run's call by itself, so that every image has the very bits that it has alone.
    """

    def __init__(self, rows: int = 16, *, alone: bool = False) -> None:
        self.rows, self.alone = rows, alone
        self.calls = self.joined = 0
        """Calls made so far, and the runs' calls in them."""
        self._waiting: list[_Call] = []
        self._tasks: list[tuple[Callable[[], object], Future[object]]] = []
        self._lanes: Counter[Lane] = Counter()
        self._running: Counter[Lane] = Counter()
        self._own = threading.local()
        self._made: deque[Callable[[], bool]] = deque()
        """Of the last calls, whether the device has done them."""
        self._works_beside = False
        """Whether the device computes while the host does other things; only then can it idle."""
        self._last: list[tuple[Sequence[Tensor], Tensor]] = []
        """What the calls of the last shared call had, and that joined."""
        self._turn = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="diffuscope-device", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        """A run begins, whose calls others may wait for."""
        with self._turn:
            self._running[self._lane()] += 1

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._running[self._lane()] -= 1
            if not self._running.total():
                self._last = []
            self._turn.notify_all()

    @contextmanager
    def lane(self, lane: Lane) -> Iterator[None]:
        """Within, what this thread does is of that lane: with many runs it lets smaller and watched lanes go first."""
        with self._turn:
            self._lanes[lane] += 1
        self._own.lane = lane
        try:
            yield
        finally:
            del self._own.lane
            with self._turn:
                self._lanes[lane] -= 1
                self._lanes, self._running = +self._lanes, +self._running  # those of which none is left are forgotten
                self._turn.notify_all()

    def _lane(self) -> Lane:
        return getattr(self._own, "lane", Lane())

    def call(
        self,
        key: Hashable,
        rows: Sequence[Tensor],
        run: Callable[[Sequence[Tensor]], Tensor],
        more: Callable[[], Sequence[Tensor]] | None = None,
        sizes: Sequence[int] = (),
    ) -> Tensor:
        """``run([*rows, *more()])``, perhaps in one call with rows of other threads of the same key. [N,...] each.

        A shared call is filled up to one of ``sizes``: some calls wait for the next if that fills this one better.
        The rows may come from a stream of the caller's own, which then waits for the answer, but for no later call.
        """
        call, own = _Call(key, tuple(rows), run, more, sizes, self._lane()), own_stream(rows[0])
        if own is not None:
            torch.cuda.default_stream(own.device).wait_stream(own)
        self._put(self._waiting, call)
        result, computed = call.answer.result()
        if own is not None and computed is not None:
            own.wait_event(computed)
            result.record_stream(own)
        return result

    def task(self, function: Callable[[], T]) -> T:
        """``function()``, in the thread that makes the calls, between two of them."""
        answer: Future[object] = Future()
        self._put(self._tasks, (function, answer))
        return answer.result()  # type: ignore[return-value]  # what the function returned

    def stop(self) -> None:
        """End the thread; calls that wait are refused."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()
        self._thread.join()

    def _put(self, queue: list[T], item: T) -> None:
        with self._turn:
            if self._stopped:
                raise RuntimeError("the batcher has stopped")
            queue.append(item)
            self._turn.notify_all()

    @torch.no_grad()
    def _serve(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._stopped or self._waiting or self._tasks)
                if self._stopped:
                    for call in self._waiting:
                        call.answer.set_exception(RuntimeError("the batcher has stopped"))
                    for _, answer in self._tasks:
                        answer.set_exception(RuntimeError("the batcher has stopped"))
                    return
                idles = self._waiting and self._works_beside and not self._calls_ahead()
                task = self._tasks.pop(0) if self._tasks and not idles else None
                batch = [] if task else self._gathered()
            if task is not None:
                _answer(task[1], task[0])
            elif batch:
                self._make(batch)

    def _gathered(self) -> list[_Call]:
        """The oldest call whose turn it is and those that fit to it; waits for runs that are between two calls.

        That costs nothing while the device still works, or else as long as others come. Tasks are done meanwhile. Nor
        does the host hurry ahead of the device: who ends would wait for calls that hold few runs.
        """
        last, count = monotonic(), len(self._waiting)
        while not self._stopped:
            ahead = self._calls_ahead()
            ready, all_there, patience = self._ready()
            full = self.alone or all_there or _rows(call for call in ready if call.key == ready[0].key) >= self.rows
            if ahead < (AHEAD if full else 1) and (full or self._tasks):
                break
            if self._tasks:
                return []
            if len(self._waiting) > count:
                last, count = monotonic(), len(self._waiting)
            elif not ahead and monotonic() >= last + patience:
                break
            self._turn.wait(POLL if ahead else last + patience - monotonic())
        ready, *_ = self._ready()
        batch = ready[:1] if self.alone else _fitting(ready, self.rows)
        filled = max((size for size in ready[0].sizes if size <= _rows(batch)), default=0)
        if filled >= FILLED * _rows(batch):
            batch = _fitting(ready, filled)
        self._waiting[:] = [call for call in self._waiting if call not in batch]  # the list to which others append
        return batch

    def _ready(self) -> tuple[list[_Call], bool, float]:
        """The waiting calls whose turn it is; whether all have come that may go first; how long to wait for these.

        Of lanes that are held back few join every fourth call, or each on a device with room, or go by themselves.
        """
        held, fewest = held_back(self._lanes)
        ready = [call for call in self._waiting if call.lane not in held]
        few = [call for call in self._waiting if call.lane in held][:fewest]
        all_there = len(ready) >= sum(count for lane, count in self._running.items() if lane not in held)
        if not ready:
            return few, all_there, HELD
        turn = self.calls % FLOOR == 0
        joined = [*few, *ready] if turn and self.alone else [*ready, *few] if turn or self._works_beside else ready
        return joined, all_there, WAIT

    def _calls_ahead(self) -> int:
        while self._made and self._made[0]():
            self._made.popleft()
        return len(self._made)

    def _make(self, batch: list[_Call]) -> None:
        self.calls, self.joined = self.calls + 1, self.joined + len(batch)
        if len(batch) == 1:
            _answer(batch[0].answer, lambda: self._run(batch[0], batch[0].all_rows()))
            return
        joined: Future[_Made] = Future()
        _answer(joined, lambda: self._run(batch[0], self._joined(batch)))
        if (error := joined.exception()) is not None:
            for call in batch:  # one of them may be to blame: each tries by itself
                _answer(call.answer, partial(self._again, call, error))
            return
        result, computed = joined.result()
        for call, part in zip(batch, result[: _rows(batch)].split([len(call.rows[0]) for call in batch]), strict=True):
            call.answer.set_result((part, computed))

    def _joined(self, batch: list[_Call]) -> list[Tensor]:
        """The rows of several calls, filled up; those that they had in the last call too are not joined again."""
        count = _rows(batch)
        more = next((size for size in batch[0].sizes if size >= count), count) - count
        found, given, before = list[tuple[Sequence[Tensor], Tensor]](), len(batch[0].rows), self._last
        for k, parts in enumerate(zip(*(call.all_rows() for call in batch), strict=True)):
            filled = (*parts, parts[0][:1].expand(more, *parts[0].shape[1:])) if more else parts
            is_known = given <= k < len(before) and _same(before[k][0], parts)
            found.append(before[k] if is_known else (parts, torch.cat(filled)))
        self._last = found
        return [rows for _, rows in found]

    def _run(self, call: _Call, rows: Sequence[Tensor]) -> _Made:
        result = call.run(rows)
        computed = None
        if result.is_cuda:
            computed = torch.cuda.Event()
            computed.record(torch.cuda.current_stream(result.device))
        done = _done(computed)
        self._made.append(done)
        self._works_beside = not done()
        return result, computed

    def _again(self, call: _Call, error: BaseException) -> _Made:
        if not isinstance(error, Exception):
            raise error
        return self._run(call, call.all_rows())


def _fitting(calls: Sequence[_Call], most: int) -> list[_Call]:
    """The first call and those like it that fit into so many rows; large ones first, since small ones fill up."""
    first, *others = calls
    batch, count = [first], len(first.rows[0])
    for call in sorted(others, key=lambda call: -len(call.rows[0])):
        if call.key == first.key and count + len(call.rows[0]) <= most:
            batch.append(call)
            count += len(call.rows[0])
    return batch


def _same(parts: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(parts) == len(others) and all(map(operator.is_, parts, others))


def _rows(calls: Iterable[_Call]) -> int:
    return sum(len(call.rows[0]) for call in calls)


def _done(computed: torch.cuda.Event | None) -> Callable[[], bool]:
    """Whether a GPU has computed it by now; elsewhere what is launched is done."""

    def done() -> bool:
        try:
            return computed is None or computed.query()
        except RuntimeError:  # of the device: the next call fails with it
            return True

    return done


def _answer(answer: "Future[T]", function: Callable[[], T]) -> None:
    try:
        answer.set_result(function())
    except BaseException as error:
        answer.set_exception(error)
