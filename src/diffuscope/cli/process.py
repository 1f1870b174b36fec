"""The process of a command: it begins and ends sooner than a process of Python does by itself."""

import gc

ALLOCATIONS = 50_000
"""New objects after which Python looks for unreachable ones: importing torch makes 600,000, which all stay."""


def begin() -> None:
    """Look for unreachable objects seldom."""
    gc.set_threshold(ALLOCATIONS)


def end() -> None:
    """Look at the objects that are left no more, as Python does several times before a process ends."""
    gc.freeze()
