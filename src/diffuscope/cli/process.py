"""The process of a command: it begins and ends sooner than a process of Python does by itself."""

import atexit
import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

ALLOCATIONS = 50_000
"""New objects after which Python looks for unreachable ones: importing torch makes 600,000, which all stay."""


def begin() -> None:
    """Look for unreachable objects seldom."""
    gc.set_threshold(ALLOCATIONS)


def end() -> None:
    """Look at the objects that are left no more, as Python does several times before a process ends."""
    gc.freeze()


class Exit:
    """Ends the process after all that was registered later for its end, and before memory is freed piece by piece."""

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._leave)  # the first to come is the last to go

    def __call__(self, code: int) -> NoReturn:
        """End with this exit code; threads that are no daemons are waited for."""
        self._code = code
        sys.exit(code)

    def _leave(self) -> None:
        if self._code is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(self._code)
