"""Bodies of requests: JSON as one of our classes of options, and multipart forms, which stay in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter
from fastapi import Request as HttpRequest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from diffuscope.errors import InputError, Unquoted
from diffuscope.request import Request
from diffuscope.schema import Options, loaded_object, options, schema
from diffuscope.serve.http.guard import BODY_LIMIT

Kind = TypeVar("Kind", bound=Options)

DECODERS = CapacityLimiter(2)
"""Pictures that are decoded at the same time."""

MAX_FILES, MAX_FIELDS = 17, 64
FIELD_BYTES = 1 << 20


class _Parser(MultiPartParser):
    spool_max_size = BODY_LIMIT + 1  # never a file on disk: the body is in memory, and is no longer than that


async def options_of(http: HttpRequest, kind: type[Kind]) -> Kind:
    """The JSON body as options.

    Raises:
        InputError: a name is unknown, or a value does not fit.
    """
    values, known = loaded_object(await http.body()), {option.key for option in options(kind)}
    for option in options(Request) if "request" in known else ():
        if option.key in values and option.key not in known:
            raise InputError(option.key, values[option.key], "none here", 'It is an option of "request"')
    return kind.from_dict(values)


def described(kind: type[Options]) -> dict[str, Any]:
    """What OpenAPI says of a body that is one of our classes of options."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema(kind)}}}}


@dataclass(frozen=True)
class Form:
    """A multipart body."""

    fields: Mapping[str, str]
    files: Mapping[str, Sequence[bytes]]


async def form_of(http: HttpRequest) -> Form:
    """The multipart body; of fields of one name the last.

    Raises:
        InputError: it is none, or has too many parts.
    """
    want = f"multipart/form-data of at most {MAX_FIELDS} fields and {MAX_FILES} files"
    if not http.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InputError("body", Unquoted("no form"), want)
    parser = _Parser(http.headers, http.stream(), max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=FIELD_BYTES)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise InputError("body", Unquoted("another form"), want) from error
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.setdefault(name, []).append(await value.read())
        else:
            fields[name] = value
    await form.close()
    return Form(fields, files)


async def file_of(http: HttpRequest, name: str) -> bytes:
    """The only file of a multipart body.

    Raises:
        InputError: there is none of that name, or there are several.
    """
    files = (await form_of(http)).files.get(name, ())
    if len(files) != 1:
        raise InputError(name, Unquoted(f"{len(files)} files"), "one file in a part of that name")
    return files[0]


async def in_decoder(function: Any, *arguments: Any) -> Any:
    """``function(*arguments)`` in one of the few threads for pictures."""
    return await anyio.to_thread.run_sync(function, *arguments, limiter=DECODERS)
