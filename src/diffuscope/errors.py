"""The errors that a user can cause. Each states what was got, what was expected, and what to do.

The command line turns them into one screen and exit code 2; anything else is a bug and exits with 1.
"""

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable

SCREEN = 1600
"""Characters of the longest message: one screen."""

_MEMORY = (
    *("out of memory", "allocate memory", "not enough memory", "alloc_failed", "bad_alloc"),
    "failed to map segment",
)
"""Words by which torch on CPUs, MPS, cuDNN, cuBLAS, C++ and the loader of libraries say that it is exhausted."""

_ONEDNN = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")
"""Whole messages by which oneDNN says it. Of a primitive that it does not have, the message goes on."""

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of control and format characters (which turn text around or hide it), surrogates, line breaks."""

_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Format characters of ordinary text: family emoji, Persian. They steer nothing."""


def visible(text: str) -> str:
    """``text`` without what could steer a terminal or deceive its reader: only new lines and tabs are kept."""
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" + _JOINERS
    return "".join(
        sign if sign in kept or unicodedata.category(sign) not in _INVISIBLE else "\N{REPLACEMENT CHARACTER}"
        for sign in text
    )


def shortened(text: str, most: int = SCREEN) -> str:
    """``text`` of at most ``most`` characters and 20 lines: beginning and end, with what is between counted."""
    lines = text.split("\n", 20)
    if len(lines) > 20:
        text = "\n".join(lines[:10]) + "\n ... \n" + "\n".join(text.rsplit("\n", 8)[1:])
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} ... [{len(text) - most:,} characters] ... {text[-end:]}"


class DiffuscopeError(Exception):
    """Base of every error that names a mistake a person can mend. Its message is one screen at most."""

    def __str__(self) -> str:
        return visible(shortened(super().__str__()))


LONGEST_NAME = 256
"""Of a name that is compared with others."""


class Unquoted(str):
    """Words that describe what an ``InputError`` got, shown without quotes."""

    __slots__ = ()


class InputError(DiffuscopeError, ValueError):
    """An argument has a value that is not possible. The sentence is made from these parts.

    Attributes:
        argument: its name in Python, with dots for what lies within: "strength", "guidance_options.rescale".
        got: the value as it was given; ``Unquoted`` where words describe it.
        want: what is possible: "a number above 0 and at most 1".
        hint: what to do, where ``want`` does not say it.
    """

    def __init__(self, argument: str, got: object, want: str, hint: str = "") -> None:
        super().__init__(argument, got, want, hint)
        self.argument = argument
        self.got = got
        self.want = want
        self.hint = hint

    def sentence(self, name: str) -> str:
        """The message, with ``name`` for the argument: a flag, or a field of a form."""
        return f"{name}: got {shown(self.got)}, expected {self.want}" + (f". {self.hint}" if self.hint else "")

    def __str__(self) -> str:
        return visible(shortened(self.sentence(self.argument)))


def shown(value: object) -> str:
    """A value within a sentence: at most 100 characters, without control characters."""
    if isinstance(value, Unquoted):
        return str(value)
    if (shape := getattr(value, "shape", None)) is not None:
        return f"a {type(value).__name__} of shape {list(shape)}"
    if value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | dict | set | frozenset):
        return _SHORT.repr(value)
    return str(value) if type(value).__name__ in ("dtype", "device") else f"a {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: "Did you mean 'x'?" for the most similar of the known names, or "" where none is similar."""
    if len(name) > LONGEST_NAME:  # difflib would compare millions of letters for hours
        return ""
    close = difflib.get_close_matches(name, [each for each in known if len(each) <= LONGEST_NAME], n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


class ModelNotFoundError(DiffuscopeError, FileNotFoundError):
    """No model at the path or under the name given."""


class WeightsError(DiffuscopeError):
    """A weight file is damaged, foreign, unsafe, or does not fit the network."""


class WeightMismatchError(WeightsError):
    """Tensors and network do not match one to one: a key too many, too few, twice, or of another shape."""


class ImageError(DiffuscopeError):
    """An image cannot be read, or is larger than the limit."""


class OutputError(DiffuscopeError, OSError):
    """A result cannot be written: no folder, no permission, no space."""


class OutOfMemoryError(DiffuscopeError, MemoryError):
    """Memory of the device or the machine does not suffice.

    Attributes:
        phase: what was being done: "sampling", "decoding" ...
        device: where: "cpu", "cuda" ...
        hint: what to change.
    """

    def __init__(self, phase: str, device: str, hint: str) -> None:
        super().__init__(phase, device, hint)
        self.phase = phase
        self.device = device
        self.hint = hint

    def __str__(self) -> str:
        return visible(shortened(f"out of memory on {self.device} while {self.phase}. {self.hint}"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or the system says that memory is exhausted; not one that is told already."""
    if isinstance(error, DiffuscopeError):
        return False
    said = str(error).lower()
    return isinstance(error, MemoryError) or said in _ONEDNN or any(words in said for words in _MEMORY)


class BusyError(DiffuscopeError):
    """The queue of an engine is full. The same request may succeed later."""


class StoppingError(BusyError):
    """An engine that is about to stop takes no further job."""


class TimeLimitError(DiffuscopeError):
    """A job takes longer than its engine lets it."""


class NonFiniteError(DiffuscopeError, ArithmeticError):
    """A network's output overflowed or is not a number, so there is no image."""


class TrainingError(DiffuscopeError):
    """A training run that cannot go on: its loss is never finite, or another process has its folder."""
