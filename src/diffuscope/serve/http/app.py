"""The application: the doors, the errors, the state of health, behind the guard."""

from collections.abc import Iterable

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from diffuscope import __version__
from diffuscope.errors import DiffuscopeError
from diffuscope.serve.engine import Engine
from diffuscope.serve.http import inspections, native, openai, page
from diffuscope.serve.http.errors import RETRY_SECONDS, answer
from diffuscope.serve.http.guard import Guard


def application(engine: Engine, *, key: str | None = None, hosts: Iterable[str] = ()) -> Guard:
    """An ASGI application over an Engine.

    Args:
        engine: what makes the images.
        key: that every request must have; None asks for none.
        hosts: names beside the loopback ones under which the server is reached.
    """
    app = FastAPI(title="diffuscope", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi")
    app.include_router(native.router(engine))
    app.include_router(inspections.router(engine))
    app.include_router(openai.router(engine))
    app.include_router(page.router(key))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        body = {"message": f"{where} is missing or of another type", "type": "invalid_request", "argument": where}
        return JSONResponse({"error": body}, 422)

    @app.exception_handler(Exception)
    async def failed(_: HttpRequest, error: Exception) -> JSONResponse:
        status, message, argument = answer(error)
        headers = {"Retry-After": str(RETRY_SECONDS)} if status == 429 else None
        return JSONResponse({"error": {"message": message, "type": "error", "argument": argument}}, status, headers)

    app.add_exception_handler(DiffuscopeError, failed)

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
        ]
        return PlainTextResponse("\n".join(lines) + "\n")

    return Guard(app, key=key, hosts=hosts)
