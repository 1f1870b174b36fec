"""A parallel map over processes, with results in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def available_cores() -> int:
    """Number of cores for this process: an equal share if torchrun started several."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def parallel_map(work: Callable[[In], Out], items: Sequence[In], processes: int | None) -> Iterator[Out]:
    """``map(work, items)`` over ``processes``; None is one for each of ``available_cores``. One runs in this process.

    So do two items where no number is given: processes take seconds to start.

    Processes are spawned, never forked: a fork of a process that has threads or a CUDA context may hang. ``work`` and
    ``items`` must therefore be picklable, and a script that calls this needs its ``__main__`` guard.
    """
    if processes is None:
        processes = available_cores() if len(items) > 2 else 1
    processes = min(processes, len(items))
    if processes <= 1:
        yield from map(work, items)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(work, items)
