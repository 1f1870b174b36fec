"""From our errors to answers: a status, and words of our own. Nothing of another library's is repeated, and no path."""

import logging
import re
import secrets
from concurrent.futures import CancelledError
from typing import NamedTuple

from diffuscope.errors import (
    BusyError,
    DiffuscopeError,
    InputError,
    NonFiniteError,
    OutOfMemoryError,
    StoppingError,
    TimeLimitError,
)

LOG = logging.getLogger("diffuscope.serve")

RETRY_SECONDS = 5

_PATH = re.compile(r"(?<![\w/.<])(?:/[\w.-]+){2,}/?|\b[A-Za-z]:\\\S+")


class NotFoundError(DiffuscopeError):
    """Nothing under that id."""


class Answer(NamedTuple):
    """What a door says of an error."""

    status: int
    message: str
    argument: str | None = None

    @property
    def headers(self) -> dict[str, str] | None:
        """When to come again, where that helps."""
        return {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else None


def answer(error: BaseException) -> Answer:
    """Status and words of an error; what nobody expected goes to the log, once, under an id."""
    if isinstance(error, InputError):
        own = InputError(error.argument, error.got, _PATH.sub("a folder", error.want), _PATH.sub("it", error.hint))
        return Answer(422, str(own), error.argument)
    for kind, status in (
        (NotFoundError, 404),
        (CancelledError, 410),
        (StoppingError, 503),
        (BusyError, 429),
        (OutOfMemoryError, 507),
        (TimeLimitError, 504),
        (NonFiniteError, 500),
    ):
        if isinstance(error, kind):
            return Answer(status, str(error))
    name = getattr(error, "name_in_log", None)
    if name is None:
        name = error.name_in_log = secrets.token_hex(4)  # type: ignore[attr-defined]  # said once of each
        LOG.error("error %s", name, exc_info=error)
    return Answer(500, f"the server failed; its log has the details under {name}")
