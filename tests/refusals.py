"""What a test asks of a refusal: which argument, and with what value. The words may change."""

from collections.abc import Iterator
from contextlib import contextmanager

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
