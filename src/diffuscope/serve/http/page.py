"""The lab: the files of the page, and the session of a browser that has shown the token."""

import hashlib
import mimetypes
import secrets
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated

from fastapi import APIRouter, Body, Header, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, RedirectResponse

from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.http.guard import session_cookie

TYPES = {
    ".js": "text/javascript",
    ".webp": "image/webp",
    ".bin": "application/octet-stream",
    ".json": "application/json",
}
"""Media types of the page's files that ``mimetypes`` may not know."""

_KEPT = (".html", ".css", ".js", ".json", ".webp", ".bin", ".svg")


@cache
def page_files() -> dict[str, tuple[bytes, str, str]]:
    """Path in the page -> content, media type and ETag: a table made once, so that no path is ever followed."""
    found: dict[str, tuple[bytes, str, str]] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for each in folder.iterdir():
            if each.is_dir():
                collect(each, f"{prefix}{each.name}/")
            elif each.name.endswith(_KEPT) and each.name != "jsconfig.json":
                suffix = each.name[each.name.rindex(".") :]
                content = each.read_bytes()
                kind = TYPES.get(suffix) or mimetypes.guess_type(each.name)[0] or "application/octet-stream"
                found[prefix + each.name] = (content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')

    collect(files("diffuscope").joinpath("lab"), "")
    return found


def router(key: str | None, token: str) -> APIRouter:
    """The routes of the page, for whoever shows the key or the token of this start: the cookie holds the token."""
    routes = APIRouter(prefix="/lab", include_in_schema=False)

    @routes.get("")
    def without_slash() -> Response:
        """To the folder, so that the page's own paths hold."""
        return RedirectResponse("/lab/", 308)

    @routes.post("/session")
    def session(http: HttpRequest, shown: Annotated[str, Body(embed=True, alias="token")]) -> Response:
        """A cookie for whoever has the token; the page takes the token out of the address."""
        known = [each.encode() for each in (key, token) if each is not None]
        if not any(secrets.compare_digest(shown.encode(), each) for each in known):
            body = {"message": "the token is not that of this server", "type": "refused", "argument": "token"}
            return JSONResponse({"error": body}, 401)
        answer = JSONResponse({})
        name = session_cookie(http.headers.get("host", ""))
        answer.set_cookie(name, token, httponly=True, samesite="strict", path="/")
        return answer

    @routes.get("/{path:path}")
    async def file(path: str, if_none_match: Annotated[str, Header()] = "") -> Response:
        """A file of the page."""
        if (path or "index.html") not in page_files():
            raise NotFoundError("the page has no such file")
        content, kind, tag = page_files()[path or "index.html"]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if if_none_match == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return routes
