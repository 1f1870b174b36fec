"""The calls of networks that a device has before it, and how long its calls take."""

from collections import deque
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Ended = Callable[[], float | None]
"""Seconds that the device took for a call; None until it has done it."""


class InFlight:
    """What was asked of a device and is not done yet. Of one thread, but for ``works_beside``.

    Attributes:
        works_beside: whether the device computes while the host does other things; only then can it idle.
    """

    def __init__(self) -> None:
        self.works_beside = False
        self._calls: deque[tuple[Hashable, int, Ended]] = deque()
        self._seconds: dict[Hashable, float] = {}
        """Of a row, in the last call of its kind."""

    def __len__(self) -> int:
        """Calls that the device has not done."""
        while self._calls and (seconds := self._calls[0][2]()) is not None:
            kind, rows, _ = self._calls.popleft()
            self._seconds[kind] = seconds / rows
        return len(self._calls)

    def made(self, kind: Hashable, rows: int, call: Callable[[], Tensor]) -> Tensor:
        """What ``call`` returns, which the device may have yet to compute."""
        begun = mark()
        result = call()
        ended = watched(result, begun)
        self._calls.append((kind, rows, ended))
        self.works_beside = ended() is None
        return result

    def seconds(self, kind: Hashable, rows: float) -> float:
        """What the device takes for so many rows; 0 if it is not known."""
        return self._seconds.get(kind, 0.0) * rows


def mark() -> torch.cuda.Event | None:
    """A mark among what the current CUDA device does; None where there is none in use."""
    if not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def watched(result: Tensor, begun: torch.cuda.Event | None) -> Ended:
    """When the device has computed it, of which a GPU's host knows nothing else."""
    if not result.is_cuda or begun is None:
        return lambda: 0.0
    end = torch.cuda.Event(enable_timing=True)
    end.record(torch.cuda.current_stream(result.device))

    def ended() -> float | None:
        try:
            return begun.elapsed_time(end) / 1000 if end.query() else None
        except RuntimeError:  # of the device: the next call fails with it
            return 0.0

    return ended
