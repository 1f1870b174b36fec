"""What every request must pass before it is routed: who may ask, from where, in which form, and how much."""

import asyncio
import base64
import binascii
import http.cookies
import ipaddress
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("diffuscope.serve")

BODY_LIMIT = 32 << 20
"""Bytes of a body; a longer one is refused while it is read."""


class BodyLimits(NamedTuple):
    """What a client may send and how slow it may be."""

    bytes: int = BODY_LIMIT
    seconds: float = 60.0
    """for the whole of a body, and for taking each piece of an answer"""


OPEN_PATHS = ("/healthz", "/readyz")
"""Need no key, so that whatever watches the process needs none."""

PAGE = "/lab"
"""The page: its files need no key, for they hold nothing; what it asks of the interface does."""

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_OF_PAGE = "script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """An ASGI application before another.

    Host must name this machine, or be allowed: a page of another name that resolves to 127.0.0.1 (DNS rebinding) is
    refused. A browser's request from another origin is refused, and no CORS header is ever sent. Bodies are JSON or
    multipart, so that no form of another page can make one, and are capped while they are read. A client that does not
    take its answer is cut off.

    Args:
        app: what answers.
        key: a Bearer token, or the name or password of Basic, that every request must have; None asks for none.
        token: what a page's cookie holds; it stands for the key.
        token_for_browsers: whether a browser needs the token where there is no key; programs of this machine do not.
        hosts: names beside the loopback ones under which the server is reached.
        limits: of a body and of the time for it.
    """

    def __init__(
        self,
        app: App,
        *,
        key: str | None = None,
        token: str | None = None,
        token_for_browsers: bool = False,
        hosts: Iterable[str] = (),
        limits: BodyLimits = BodyLimits(),  # noqa: B008 (frozen)
    ) -> None:
        self.app, self.limits = app, limits
        self.secrets = tuple(each.encode() for each in (key, token) if each is not None)
        self.key, self.token_for_browsers = key, token_for_browsers
        self.hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        try:
            body = await asyncio.wait_for(_body(receive, headers, self.limits.bytes), self.limits.seconds)
        except TimeoutError:
            await _answer(send, 408, f"the body did not come within {self.limits.seconds:g} s")
            return
        if body is None:
            await _answer(send, 413, f"the body is longer than {self.limits.bytes} bytes")
            return
        first = True

        async def again() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_headers(scope["path"])]}
            await asyncio.wait_for(send(message), self.limits.seconds)

        try:
            await self.app(scope, again, safe)
        except TimeoutError:
            LOG.info("a client that did not take its answer was cut off")
            raise

    def _refusal(self, scope: Message, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        host = headers.get("host", [])
        if len(host) != 1 or not self._is_known(host[0]):
            return 403, "this server does not answer under that Host"
        origin = headers.get("origin", [])
        if origin and origin != [f"{scope.get('scheme', 'http')}://{host[0]}"]:
            return 403, "requests from other origins are refused"
        if headers.get("sec-fetch-site", ["none"])[0] in ("cross-site", "same-site") and not _is_link(scope, headers):
            return 403, "requests from other sites are refused"
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", [""])[0].split(";")[0].strip().lower()
            empty = not kind and headers.get("content-length", ["0"]) == ["0"] and "transfer-encoding" not in headers
            if kind not in ("application/json", "multipart/form-data") and not empty:
                return 415, "the body must be application/json or multipart/form-data"
        needed = self.key is not None or (self.token_for_browsers and _is_browser(headers))
        if needed and not _is_open(scope["path"]) and not self._has_secret(headers):
            if self.key is None:
                return 401, "the page needs the token of this start; open the address that the server has printed"
            return 401, "the key is missing or wrong; send it as Authorization: Bearer KEY"
        return None

    def _is_known(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        name = name.lower().strip("[]")
        if name in self.hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _has_secret(self, headers: dict[str, list[str]]) -> bool:
        scheme, _, value = headers.get("authorization", [""])[0].partition(" ")
        given = [value.strip()]
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(value, validate=True).decode().split(":", 1)
            except (binascii.Error, UnicodeDecodeError):
                given = []
        given.append(_session(headers))
        return any(secrets.compare_digest(each.encode(), own) for each in given for own in self.secrets)


def session_cookie(host: str) -> str:
    """The cookie of a page under this Host: browsers share cookies between the ports of one name."""
    port = host.rpartition(":")[2]
    return f"diffuscope-{port if port.isdigit() else 'page'}"


def _session(headers: dict[str, list[str]]) -> str:
    try:
        cookies = http.cookies.SimpleCookie("; ".join(headers.get("cookie", [])))
    except http.cookies.CookieError:
        return ""
    found = cookies.get(session_cookie(headers["host"][0]))
    return "" if found is None else found.value


def _is_browser(headers: dict[str, list[str]]) -> bool:
    """Whether a page has made the request: browsers say from where, and send their cookies."""
    return any(name in headers for name in ("origin", "cookie", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"))


def _is_link(scope: Message, headers: dict[str, list[str]]) -> bool:
    """Whether somebody follows a link to the page, which other pages cannot read and must not frame."""
    navigates = headers.get("sec-fetch-mode") == ["navigate"] and headers.get("sec-fetch-dest") == ["document"]
    return navigates and scope["method"] == "GET" and _is_page(scope["path"])


def _is_page(path: str) -> bool:
    return path == PAGE or path.startswith(f"{PAGE}/")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or _is_page(path)


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    policy = f"{_NOTHING}; {_OF_PAGE}" if _is_page(path) else _NOTHING
    return [(b"content-security-policy", policy.encode()), *HEADERS]


async def _body(receive: Receive, headers: dict[str, list[str]], limit: int) -> bytes | None:
    """The whole body, or None where it is too long."""
    stated = headers.get("content-length", ["0"])[0]
    if not stated.isdigit() or int(stated) > limit:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > limit:
            return None
    return b"".join(parts)


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"error": {"message": words, "type": "refused"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_headers("")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
