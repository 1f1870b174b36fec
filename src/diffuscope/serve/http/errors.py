"""From our errors to answers: a status, and words of our own. Nothing of another library's is repeated."""

import logging
import secrets
from typing import NamedTuple

from diffuscope.errors import BusyError, DiffuscopeError, InputError, OutOfMemoryError

LOG = logging.getLogger("diffuscope.serve")

RETRY_SECONDS = 5


class NotFoundError(DiffuscopeError):
    """Nothing under that id."""


class Answer(NamedTuple):
    """What a door says of an error."""

    status: int
    message: str
    argument: str | None = None


def answer(error: BaseException) -> Answer:
    """Status and words of an error; what nobody expected goes to the log under an id."""
    if isinstance(error, InputError):
        return Answer(422, str(error), error.argument)
    if isinstance(error, NotFoundError):
        return Answer(404, str(error))
    if isinstance(error, BusyError):
        return Answer(429, str(error))
    if isinstance(error, OutOfMemoryError):
        return Answer(507, str(error))
    name = secrets.token_hex(4)
    LOG.error("error %s", name, exc_info=error)
    return Answer(500, f"the server failed; its log has the details under {name}")
