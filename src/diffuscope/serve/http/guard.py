"""What every request must pass before it is routed: who may ask, from where, in which form, and how much."""

import base64
import binascii
import http.cookies
import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BODY_LIMIT = 32 << 20
"""Bytes of a body; a longer one is refused while it is read."""

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
    multipart, so that no form of another page can make one, and are capped while they are read.

    Args:
        app: what answers.
        key: a Bearer token, or the name or password of Basic, that every request must have; None asks for none.
        hosts: names beside the loopback ones under which the server is reached.
        body_limit: bytes.
    """

    def __init__(
        self, app: App, *, key: str | None = None, hosts: Iterable[str] = (), body_limit: int = BODY_LIMIT
    ) -> None:
        self.app, self.key, self.body_limit = app, key, body_limit
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
        body = await _body(receive, headers, self.body_limit)
        if body is None:
            await _answer(send, 413, f"the body is longer than {self.body_limit} bytes")
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
            await send(message)

        await self.app(scope, again, safe)

    def _refusal(self, scope: Message, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        host = headers.get("host", [])
        if len(host) != 1 or not self._is_known(host[0]):
            return 403, "this server does not answer under that Host"
        origin = headers.get("origin", [])
        if origin and origin != [f"{scope.get('scheme', 'http')}://{host[0]}"]:
            return 403, "requests from other origins are refused"
        if headers.get("sec-fetch-site", ["none"])[0] in ("cross-site", "same-site"):
            return 403, "requests from other sites are refused"
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", [""])[0].split(";")[0].strip().lower()
            empty = not kind and headers.get("content-length", ["0"]) == ["0"] and "transfer-encoding" not in headers
            if kind not in ("application/json", "multipart/form-data") and not empty:
                return 415, "the body must be application/json or multipart/form-data"
        if self.key is not None and not _is_open(scope["path"]) and not self._has_key(headers):
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

    def _has_key(self, headers: dict[str, list[str]]) -> bool:
        assert self.key is not None
        scheme, _, value = headers.get("authorization", [""])[0].partition(" ")
        given = [value.strip()]
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(value, validate=True).decode().split(":", 1)
            except (binascii.Error, UnicodeDecodeError):
                given = []
        given.append(_session(headers))
        return any(secrets.compare_digest(each.encode(), self.key.encode()) for each in given)


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


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path == PAGE or path.startswith(f"{PAGE}/")


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    policy = f"{_NOTHING}; {_OF_PAGE}" if path == PAGE or path.startswith(f"{PAGE}/") else _NOTHING
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
