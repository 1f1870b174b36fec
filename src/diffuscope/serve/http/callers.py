"""Who asks: jobs, turns and events belong to a caller."""

import base64
import binascii
from typing import Literal

from fastapi import Request as HttpRequest

Family = Literal["native", "openai", "a1111"]


def owner_of(http: HttpRequest, family: Family) -> str:
    """A caller: its address, its name if it gives one as Basic does, and the interface that it speaks."""
    host = "" if http.client is None else http.client.host
    return owner(family, host, _name(http.headers.get("authorization", "")))


def owner(family: Family, host: str, name: str = "") -> str:
    """The caller at an address."""
    return f"{family}:{host}:{name}"


def _name(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0][:64]
    except (binascii.Error, UnicodeDecodeError):
        return ""
