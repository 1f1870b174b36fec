"""Network calls of many runs in one: batching where the network stands, not at the sampler's step.

Each run keeps its own sampler, guidance, noise levels and number of steps; only its call of a network waits here until
others have come. One thread makes all calls.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE, LatentDistribution
from diffuscope.perf.engine import EXACT, Approximation
from diffuscope.perf.engine import Engine as Twins
from diffuscope.perf.unet import Prompt
from diffuscope.types import Tap

T = TypeVar("T")

WAIT = 0.002
"""Seconds for which a call waits while other runs are about to make theirs."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One call of a network: rows of tensors that others may join."""

    key: object
    """Calls of the same key can be one."""
    rows: tuple[Tensor, ...]
    run: Callable[[Sequence[Tensor]], Tensor]
    answer: "Future[Tensor]" = field(default_factory=Future)


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
        self._running = 0
        self._turn = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="diffuscope-device", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        """A run begins, whose calls others may wait for."""
        with self._turn:
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._running -= 1
            self._turn.notify_all()

    def call(self, key: object, rows: Sequence[Tensor], run: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """``run(rows)``, perhaps in one call with rows of other threads under the same key. [N,...] each."""
        call = _Call(key, tuple(rows), run)
        self._put(self._waiting, call)
        return call.answer.result()

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
                task = self._tasks.pop(0) if self._tasks else None
                batch = [] if task else self._gathered()
            if task is not None:
                _answer(task[1], task[0])
            elif batch:
                self._make(batch)

    def _gathered(self) -> list[_Call]:
        """The oldest call and those that fit to it; waits a moment for runs that are between two calls."""
        end = monotonic() + WAIT
        while not self._stopped and len(self._waiting) < self._running and (left := end - monotonic()) > 0:
            if self._tasks or self._rows_of(self._waiting[0].key) >= self.rows:
                break
            self._turn.wait(left)
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch, count = [first], len(first.rows[0])
        for call in [] if self.alone else self._waiting[1:]:
            if call.key == first.key and count + len(call.rows[0]) <= self.rows:
                batch.append(call)
                count += len(call.rows[0])
        self._waiting = [call for call in self._waiting if call not in batch]
        return batch

    def _rows_of(self, key: object) -> int:
        return sum(len(call.rows[0]) for call in self._waiting if call.key == key)

    def _make(self, batch: list[_Call]) -> None:
        self.calls, self.joined = self.calls + 1, self.joined + len(batch)
        if len(batch) == 1:
            _answer(batch[0].answer, lambda: batch[0].run(batch[0].rows))
            return
        joined: Future[object] = Future()
        _answer(
            joined, lambda: batch[0].run([torch.cat(parts) for parts in zip(*(c.rows for c in batch), strict=True)])
        )
        if (error := joined.exception()) is not None:
            for call in batch:  # one of them may be to blame: each tries by itself
                _answer(call.answer, partial(_again, call, error))
            return
        result = joined.result()
        assert isinstance(result, Tensor)
        for call, part in zip(batch, result.split([len(call.rows[0]) for call in batch]), strict=True):
            call.answer.set_result(part)


def _again(call: _Call, error: BaseException) -> Tensor:
    if not isinstance(error, Exception):
        raise error
    return call.run(call.rows)


def _answer(answer: "Future[object] | Future[Tensor]", function: Callable[[], object]) -> None:
    try:
        answer.set_result(function())  # type: ignore[arg-type]  # a future of what the function returns
    except BaseException as error:
        answer.set_exception(error)


class SharedTwins(Twins):
    """The networks of a Pipeline as runs of an Engine call them: through the batcher. Takes the place of its twins."""

    def __init__(self, twins: Twins, batcher: Batcher) -> None:
        super().__init__(twins.wanted)
        self.twins, self.batcher, self.offload = twins, batcher, twins.offload

    @property
    def notes(self) -> list[str]:
        """Those of the twins."""
        return self.twins.notes

    def runs(self, network: nn.Module, tap: Tap | None) -> bool:  # noqa: ARG002 (whatever the network is)
        """Whether the batcher calls the network; with a tap the run does so itself."""
        return tap is None

    def twin(self, network: nn.Module) -> str:
        """As of the twins."""
        return self.twins.twin(network)

    def release(self) -> None:
        """Give back the memory of the twins' graphs, between two calls."""
        self.batcher.task(self.twins.release)

    @contextmanager
    def using(self, network: nn.Module) -> Iterator[None]:
        """Within, a network is on its device, and stays there."""
        with self.twins.using(network):
            yield

    def lay(self, network: nn.Module) -> None:
        """Lay out the twin."""
        self.twins.lay(network)

    def predictor(
        self,
        unet: UNet,
        context: Tensor,
        extra: Mapping[str, Tensor] | None,
        *,
        pairs: bool,
        times: Sequence[float] = (),
        approximation: Approximation = EXACT,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """``unet`` for a text, as a function of latents [N,C,H,W] and timestep."""
        if approximation != EXACT:  # a call of its own, since others would have to approximate in the same calls
            own = self.twins.predictor(unet, context, extra, pairs=pairs, times=times, approximation=approximation)
            return lambda x, time: self.batcher.task(lambda: own(x, time))
        if self.twins.runs(unet, None):
            return self._fast(unet, context, extra, pairs=pairs, times=times)
        names = () if extra is None else tuple(sorted(extra))
        others = [] if extra is None else [extra[name] for name in names]

        def run(rows: Sequence[Tensor]) -> Tensor:
            x, time, context, *rest = rows
            return unet(x, time, context, extra=dict(zip(names, rest, strict=True)) or None)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            rows = [x, torch.as_tensor(time, device=x.device).expand(len(x)), context, *others]
            key = ("unet", id(unet), x.dtype, *(tuple(row.shape[1:]) for row in rows), names)
            return self.batcher.call(key, rows, run)

        return predict

    def _fast(
        self, unet: UNet, context: Tensor, extra: Mapping[str, Tensor] | None, *, pairs: bool, times: Sequence[float]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The same by the fast twin: alone as without a batcher, and with others in one call of the twin."""
        reading = self.twins.reading(unet, context, extra, times)
        alone = self.twins.predictions(reading, pairs=pairs)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            def read() -> tuple[Tensor, Prompt]:
                now = reading.now()
                return reading.timed(now, time), now[1]

            timed, prompt = self.batcher.task(read)
            rows = [x, timed.expand(len(x), -1), *reading.tensors]

            def run(given: Sequence[Tensor]) -> Tensor:
                return alone(x, time) if given[0] is x else self.twins.joined(unet, prompt, given)

            key = ("unet", id(unet), x.dtype, *(tuple(row.shape[1:]) for row in rows))
            return self.batcher.call(key, rows, run)

        return predict

    def decode(self, vae: VAE, latents: Tensor) -> Tensor:
        """``vae.decode``."""

        def run(rows: Sequence[Tensor]) -> Tensor:
            return self.twins.decode(vae, rows[0]) if self.twins.runs(vae, None) else vae.decode(rows[0])

        return self.batcher.call(("vae", id(vae), latents.dtype, tuple(latents.shape[1:])), [latents], run)

    def encode(self, vae: VAE, pixels: Tensor) -> LatentDistribution:
        """``vae.encode``; a run begins with it, in the thread that makes the calls."""
        return self.twins.encode(vae, pixels) if self.twins.runs(vae, None) else vae.encode(pixels)
