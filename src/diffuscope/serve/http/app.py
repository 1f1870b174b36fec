"""The application: the doors, the errors, the state of health, behind the guard."""

import secrets
from collections.abc import Iterable
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from diffuscope import __version__
from diffuscope.errors import DiffuscopeError
from diffuscope.serve.engine import Engine
from diffuscope.serve.http import a1111, inspections, openai, page
from diffuscope.serve.http.about import add_about
from diffuscope.serve.http.arrays import add_arrays
from diffuscope.serve.http.comparison import add_comparison
from diffuscope.serve.http.errors import answer
from diffuscope.serve.http.guard import Guard
from diffuscope.serve.http.native import add_jobs
from diffuscope.serve.http.pictures import Pictures
from diffuscope.serve.http.text import add_text


def application(
    engine: Engine, *, key: str | None = None, token: str | None = None, hosts: Iterable[str] = ()
) -> Guard:
    """An ASGI application over an Engine, with the page of the lab.

    Args:
        engine: what makes the images.
        key: that every request must have; None asks for none.
        token: of this start, that a browser must have shown; None asks for none.
        hosts: names beside the loopback ones under which the server is reached.
    """
    app = FastAPI(
        title="diffuscope", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    pictures = Pictures(engine)
    routes = APIRouter(prefix="/api/v1", tags=["native"])
    add_jobs(routes, engine, pictures)
    add_arrays(routes, engine, pictures)
    add_comparison(routes, engine)
    add_about(routes, engine)
    add_text(routes, engine)
    app.include_router(routes)
    app.include_router(inspections.router(engine, pictures))
    app.include_router(openai.router(engine))
    app.include_router(a1111.router(engine))
    session = token or secrets.token_urlsafe(32)
    app.include_router(page.router(key, session))

    app.openapi = partial(_openapi, app, routes)  # type: ignore[method-assign]  # FastAPI's own way to change it

    @app.exception_handler(RequestValidationError)
    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        body = {"message": f"{where} is missing or of another type", "type": "invalid_request", "argument": where}
        return JSONResponse({"error": body}, 422)

    @app.exception_handler(HTTPException)
    async def refused(http: HttpRequest, error: HTTPException) -> JSONResponse:
        if http.url.path.startswith("/sdapi/"):  # FastAPI's own form, which that interface has
            return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
        body = {"message": f"{http.method} here: {error.detail}", "type": "invalid_request", "argument": None}
        return JSONResponse({"error": body}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: HttpRequest, error: Exception) -> JSONResponse:
        found = answer(error)
        body = {"message": found.message, "type": "error", "argument": found.argument}
        return JSONResponse({"error": body}, found.status, found.headers)

    app.add_exception_handler(DiffuscopeError, failed)

    _add_health(app, engine)
    return Guard(app, key=key, token=session, token_for_browsers=token is not None, hosts=hosts)


def _add_health(app: FastAPI, engine: Engine) -> None:
    @app.get("/healthz")
    def healthy() -> PlainTextResponse:
        """The process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    def ready() -> PlainTextResponse:
        """The engine takes jobs."""
        return PlainTextResponse("stopping\n", 503) if engine.stopping else PlainTextResponse("ok\n")

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        """Counts in Prometheus' text format."""
        states = [job.state for job in engine.jobs]
        lines = [f'diffuscope_jobs{{state="{state}"}} {states.count(state)}' for state in sorted({*states})]
        lines += [
            f"diffuscope_images_waiting {engine.waiting}",
            f"diffuscope_network_calls_total {engine.batcher.calls}",
            f"diffuscope_network_calls_joined_total {engine.batcher.joined}",
            f'diffuscope_kept_bytes{{kind="arrays"}} {engine.arrays.size}',
            f'diffuscope_kept_bytes{{kind="answers"}} {engine.answers.size}',
        ]
        return PlainTextResponse("\n".join(lines) + "\n")


def _openapi(app: FastAPI, ours: APIRouter) -> dict[str, Any]:
    """OpenAPI, with our schemas as they are: FastAPI leaves out defaults that are null."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for route in ours.routes:
            if isinstance(route, APIRoute) and route.openapi_extra is not None:
                described["paths"][route.path]["post"] |= route.openapi_extra
        app.openapi_schema = described
    return app.openapi_schema
