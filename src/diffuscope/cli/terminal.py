"""What commands print: safe for the terminal, whatever a stranger's file says, and never the end of a run."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from io import TextIOWrapper
from types import FrameType
from typing import Any, TextIO

from diffuscope.errors import OutputError, shortened, visible


class Terminated(BaseException):
    """The process was asked to end: by SIGTERM, or because its terminal was closed (SIGHUP)."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def say(text: str) -> None:
    """Print the answer of a command, of any length."""
    _write(visible(text), sys.stdout)


def tell(text: str) -> None:
    """Print a note, warning or error beside the answer: one screen at most."""
    _write(visible(shortened(text)), sys.stderr)


def tell_all(text: str) -> None:
    """Print a traceback beside the answer."""
    _write(visible(text), sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    stream.write(f"{text}\n")
    stream.flush()


class _Stream:
    """A text stream that tells ``failed`` when it cannot be written, and then leads nowhere."""

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            _abandon(self._stream)
            self._failed(error)


def _refuse(error: OSError) -> None:
    """Of the answer: what cannot be written is an error, but for a reader that left, as ``head`` does."""
    if isinstance(error, BrokenPipeError):
        raise error
    raise OutputError(f"standard output cannot be written: {error.strerror}; give a place with space") from error


def _ignore(error: OSError) -> None:
    """Of what is told beside the answer: a full disk under a progress bar must not cost the image."""


def _abandon(stream: TextIO) -> None:
    """Send what follows nowhere: Python writes what is left at its end, and would complain again."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def streams() -> Iterator[None]:
    """Within, output that is closed, full, or in an encoding without a text's letters is written as far as possible."""
    with ExitStack() as stack:
        pair: list[Any] = []
        for stream, failed in ((sys.stdout, _refuse), (sys.stderr, _ignore)):
            if stream is None:  # closed before the process began
                stream = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
            pair.append(_Stream(stream, failed))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="PIL")  # of files that are described or refused anyway
        stack.enter_context(redirect_stdout(pair[0]))
        stack.enter_context(redirect_stderr(pair[1]))
        yield


@contextmanager
def signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise Terminated, so that unfinished files are removed."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread
        for number in (signal.Signals[name] for name in names):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                before[number] = signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Terminated(number)
