"""OpenAI's interface, ``/v1/images/generations`` and ``/v1/models``: whatever speaks to it can use this server."""

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Body
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image

from diffuscope.errors import InputError
from diffuscope.images import png_bytes
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.errors import answer
from diffuscope.serve.job import Job
from diffuscope.serve.record import Kept

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MOST_IMAGES, MOST_PARTIAL = 10, 3

NEUTRAL: dict[str, tuple[object, ...]] = {
    "quality": ("auto", "standard", "medium", "low", "high", "hd"),
    "style": ("vivid", "natural"),
    "moderation": ("auto", "low"),
    "background": ("auto", "opaque"),
    "response_format": ("b64_json",),
}
"""Fields that ask for nothing that this server does differently, with the values of which that is true."""

READ = {"prompt", "model", "n", "size", "output_format", "output_compression", "partial_images", "stream", "user"}


def router(engine: Engine) -> APIRouter:
    """The routes of an Engine."""
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models")
    def models() -> dict[str, Any]:
        """The model that is served."""
        model = {"id": engine.pipe.config.name, "object": "model", "created": 0, "owned_by": "diffuscope"}
        return {"object": "list", "data": [model]}

    @routes.post("/images/generations", response_model=None)
    def generate(http: HttpRequest, body: dict[str, Any] = Body()) -> Response | dict[str, Any]:  # noqa: B008
        """Images of a prompt, as base64; with ``stream`` as events, clean estimates of some steps first."""
        try:
            given = {name: value for name, value in body.items() if value is not None}
            request = _request(engine, given)
            owner = "" if http.client is None else http.client.host
            record: tuple[Kept, ...] = ("x0",) if given.get("stream") else ()
            job = engine.submit(request, owner=owner, interactive=bool(given.get("stream")), record=record)
            if given.get("stream"):
                events = _events(engine, job, given)
                return StreamingResponse(events, media_type="text/event-stream")
            images = [{"b64_json": _encoded(result, given)} for result in job.result()]
        except Exception as error:
            return failed(error)
        return {"created": int(time.time()), "data": images}

    return routes


def failed(error: BaseException) -> JSONResponse:
    """An error in OpenAI's form."""
    found = answer(error)
    kind = {422: "invalid_request_error", 429: "rate_limit_error"}.get(found.status, "server_error")
    body = {"error": {"message": found.message, "type": kind, "param": found.argument, "code": None}}
    return JSONResponse(body, 400 if found.status == 422 else found.status, found.headers)


def _request(engine: Engine, given: dict[str, Any]) -> Request:
    """Its fields as ours; one that would change nothing is let through, any other is refused by name."""
    for name, value in given.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                raise InputError(name, value, f"one of {', '.join(map(str, NEUTRAL[name]))}")
        elif name not in READ:
            raise InputError(name, value, f"one of the fields {', '.join(sorted(READ | NEUTRAL.keys()))}")
    if "prompt" not in given or not isinstance(given["prompt"], str):
        raise InputError("prompt", given.get("prompt"), "a text")
    _whole("n", given.get("n", 1), 1, MOST_IMAGES)
    _whole("partial_images", given.get("partial_images", 0), 0, MOST_PARTIAL)
    _whole("output_compression", given.get("output_compression", 100), 0, 100)
    if given.get("output_format", "png") not in FORMATS:
        raise InputError("output_format", given["output_format"], f"one of {', '.join(FORMATS)}")
    size = given.get("size", "auto")
    width, height = (None, None) if size == "auto" else _sides(engine, size)
    return Request(prompt=given["prompt"], num_images_per_prompt=given.get("n", 1), width=width, height=height)


def _whole(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(name, value, f"a whole number from {least} to {most}")


def _sides(engine: Engine, size: object) -> tuple[int, int]:
    """Width and height of the generation; the model's upscaler makes the rest of the size that was asked for."""
    parts = size.split("x") if isinstance(size, str) else []
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise InputError("size", size, "auto, or WIDTHxHEIGHT in pixels")
    upscale = engine.pipe.config.preset.upscale
    width, height = (int(part) for part in parts)
    unit = upscale * engine.pipe.config.vae.factor
    if width % unit or height % unit:
        raise InputError("size", size, f"sides that are multiples of {unit}")
    return width // upscale, height // upscale


def _encoded(result: Result, given: dict[str, Any]) -> str:
    kind = given.get("output_format", "png")
    if kind == "png":
        content = png_bytes(result.images[0], receipts.chunks(result.receipt, 0))
    else:
        content = _lossy(result.images[0], kind, given.get("output_compression", 100))
    return base64.b64encode(content).decode()


def _lossy(image: Image.Image, kind: str, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, FORMATS[kind], quality=quality)
    return content.getvalue()


def _events(engine: Engine, job: Job, given: dict[str, Any]) -> Iterator[str]:
    """Server-sent events: estimates of some steps, then each image; an error is an event too."""
    wanted, index = given.get("partial_images", 0), 0
    try:
        for event in job.events():
            if event.kind == "step" and event.image == 0 and event.step is not None and wanted:
                x0 = engine.array(job.id, 0, event.step, "x0")
                if event.step + 1 in _shown(job, wanted) and x0 is not None:
                    image = engine.decode(x0[None])[0]
                    content = base64.b64encode(png_bytes(image)).decode()
                    yield _event("partial_image", given, {"b64_json": content, "partial_image_index": index})
                    index += 1
            if event.kind == "image" and event.image is not None:
                result = job.results[event.image]
                assert result is not None
                yield _event("completed", given, {"b64_json": _encoded(result, given)})
        job.result(0)
    except GeneratorExit:  # the client has left
        job.cancel()
        raise
    except Exception as error:
        body = failed(error).body
        yield f"event: error\ndata: {bytes(body).decode()}\n\n"
    yield "data: [DONE]\n\n"


def _shown(job: Job, wanted: int) -> set[int]:
    """After which steps an estimate is sent: spread over the run."""
    assert job.plan is not None
    steps = len(job.plan.levels.sigmas) - 1
    return {max(1, round(steps * (k + 1) / (wanted + 1))) for k in range(wanted)}


def _event(kind: str, given: dict[str, Any], fields: dict[str, Any]) -> str:
    name = f"image_generation.{kind}"
    format_ = given.get("output_format", "png")
    data = {"type": name, "created_at": int(time.time()), "output_format": format_, "size": "auto", "quality": "auto"}
    return f"event: {name}\ndata: {json.dumps(data | {'background': 'auto'} | fields)}\n\n"
