"""What a test asks of a refusal: which argument, and with what value. The words may change."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffuscope.errors import InputError

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
