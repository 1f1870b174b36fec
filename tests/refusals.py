"""What a test asks of a refusal: which argument, and with what value. The words may change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffuscope.errors import DiffuscopeError, InputError

ANYTHING = object()


@contextmanager
def refused(argument: str, got: object = ANYTHING) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """The block raises an InputError about this argument, and says what is wanted."""
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert error.argument == argument
    assert error.want
    if got is not ANYTHING:
        assert error.got == got


def without_paths(error: Exception, folder: Path) -> str:
    """Its message without the path of a test's folder, in which pytest repeats the name of the test."""
    return str(error).replace(str(folder), "")


def assert_says(error: DiffuscopeError, argument: str, shown: str) -> None:
    """The message shows this; an InputError is about this argument, or about a part of it, "argument.part"."""
    assert shown.casefold() in str(error).casefold()
    if isinstance(error, InputError):
        assert re.split(r"[.\[]", error.argument)[0] == argument
        assert str(error).startswith(f"{error.argument}: ")


def assert_one_screen(text: str) -> None:
    """What the command line writes about a mistake."""
    assert "Traceback" not in text
    assert 0 < len(text.splitlines()) < 25
