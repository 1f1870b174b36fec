"""Work spread over processes, with results in the order of the items."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """How many cores this process may use, when those that torchrun started beside it use as many."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, found // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def in_order(work: Callable[[In], Out], items: Sequence[In], processes: int | None) -> Iterator[Out]:
    """``map(work, items)`` over ``processes`` (None: one for each of ``cores``); in this process where one is enough.

    Processes are spawned, never forked: a fork of a process that has threads or a CUDA context may hang. ``work`` and
    ``items`` must therefore be picklable, and a script that calls this needs its ``__main__`` guard.
    """
    processes = min(processes or cores(), len(items))
    if processes <= 1:
        yield from map(work, items)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(work, items)
