"""OpenAI's interface, ``/v1/images`` and ``/v1/models``: whatever speaks to it can use this server."""

import base64
import io
import time
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from diffuscope.images import png_bytes
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.schema import loaded_object
from diffuscope.serve.engine import Engine
from diffuscope.serve.events import Event
from diffuscope.serve.http import sizes, streams
from diffuscope.serve.http.bodies import form_of, in_decoder
from diffuscope.serve.http.callers import owner_of
from diffuscope.serve.http.errors import answer
from diffuscope.serve.http.limits import LIMITS
from diffuscope.serve.http.openai_fields import FORMATS, Asked, check_model, take_picture, translate
from diffuscope.serve.job import Job
from diffuscope.serve.record import Kept

JSON_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
FORM_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {"type": "object"}}}}}


def router(engine: Engine) -> APIRouter:
    """The routes of an Engine."""
    routes = APIRouter(prefix="/v1", tags=["openai"])
    config = engine.pipe.config
    served = {"id": config.name, "object": "model", "created": 0, "owned_by": "diffuscope"}

    @routes.get("/models")
    def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [served]}

    @routes.get("/models/{id}", response_model=None)
    def model(id: str) -> Response | dict[str, Any]:
        """The model that is served, by its name."""
        try:
            check_model(id, config)
        except Exception as error:
            return failed(error)
        return served

    @routes.post("/images/generations", response_model=None, openapi_extra=JSON_BODY)
    async def generate(http: HttpRequest) -> Response | dict[str, Any]:
        """Images of a prompt, as base64; with ``stream`` as events, clean estimates of some steps first."""
        try:
            asked = translate(loaded_object(await http.body()), config)
            return await _answered(engine, http, asked, "image_generation")
        except Exception as error:
            return failed(error)

    @routes.post("/images/edits", response_model=None, openapi_extra=FORM_BODY)
    async def edit(http: HttpRequest) -> Response | dict[str, Any]:
        """A picture changed by a prompt: all of it, or where the mask is transparent."""
        try:
            form = await form_of(http)
            asked = translate(form.fields, config)
            images = [*form.files.get("image", ()), *form.files.get("image[]", ())]
            await in_decoder(take_picture, asked, config, images, [*form.files.get("mask", ())])
            return await _answered(engine, http, asked, "image_edit")
        except Exception as error:
            return failed(error)

    return routes


def failed(error: BaseException) -> JSONResponse:
    """An error in OpenAI's form."""
    found = answer(error)
    kinds = {404: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error"}
    body: dict[str, Any] = {"message": found.message, "type": kinds.get(found.status, "server_error")}
    body |= {"param": found.argument, "code": "model_not_found" if found.status == 404 else None}
    return JSONResponse({"error": body}, 400 if found.status == 422 else found.status, found.headers)


async def _answered(engine: Engine, http: HttpRequest, asked: Asked, name: str) -> Response | dict[str, Any]:
    request = Request(**asked.values)
    LIMITS.check(request)
    values: dict[str, Any] = {each.name: getattr(request, each.name) for each in fields(Request)}
    if asked.source is not None:
        values |= {"image": asked.source.image, "mask_image": asked.source.mask}
    call, owner = Call(**values), owner_of(http, "openai")
    record: tuple[Kept, ...] = ("x0",) if asked.stream and asked.partial else ()
    job = await run_in_threadpool(lambda: engine.submit(call, owner=owner, interactive=asked.stream, record=record))
    if asked.stream:
        return streams.stream(_events(engine, job, asked, name))
    await streams.finished(http, job)
    results = job.result(0)
    images = [{"b64_json": await run_in_threadpool(_encoded, result, asked)} for result in results]
    return {"created": int(time.time()), "data": images, "output_format": asked.format}


def _encoded(result: Result, asked: Asked) -> str:
    made = result.images[0] if asked.source is None else asked.source.finished(result.images[0])
    image = sizes.answered(made, asked.size)
    if asked.format == "png":
        texts = receipts.chunks(result.receipt, 0)
        if image is not result.images[0]:  # it is not the image of the receipt any more
            del texts[receipts.JSON_KEY]
        return base64.b64encode(png_bytes(image, texts)).decode()
    content = io.BytesIO()
    image.save(content, FORMATS[asked.format], quality=asked.quality)
    return base64.b64encode(content.getvalue()).decode()


async def _events(engine: Engine, job: Job, asked: Asked, name: str) -> AsyncIterator[str]:
    """Server-sent events: estimates of some steps, then each image; an error is an event too."""
    try:
        shown = _shown(job, asked.partial)
        async for event in streams.events_of(job):
            if event is None:
                yield streams.COMMENT
            elif event.kind == "step" and event.image == 0 and event.step in shown:
                content = await run_in_threadpool(_estimate, engine, job, event, asked)
                if content is not None:
                    index = shown.index(event.step)
                    yield _event(f"{name}.partial_image", asked, {"b64_json": content, "partial_image_index": index})
            elif event.kind == "image" and event.image is not None:
                result = job.results[event.image]
                assert result is not None
                content = await run_in_threadpool(_encoded, result, asked)
                yield _event(f"{name}.completed", asked, {"b64_json": content})
        job.result(0)
    except Exception as error:
        yield streams.message(bytes(failed(error).body).decode(), "error")
    finally:
        if not job.ended:  # the client has left
            job.cancel()
    yield streams.message("[DONE]")


def _estimate(engine: Engine, job: Job, event: Event, asked: Asked) -> str | None:
    assert event.step is not None
    x0 = engine.array(job.id, 0, event.step, "x0")
    if x0 is None:
        return None
    return base64.b64encode(png_bytes(sizes.answered(engine.decode(x0[None])[0], asked.size))).decode()


def _shown(job: Job, wanted: int) -> list[int]:
    """The steps after which an estimate is sent: spread over the run."""
    assert job.plan is not None
    steps = len(job.plan.levels.sigmas) - 1
    return sorted({max(1, round(steps * (k + 1) / (wanted + 1))) - 1 for k in range(wanted)})


def _event(name: str, asked: Asked, values: dict[str, Any]) -> str:
    data = {"type": name, "created_at": int(time.time()), "output_format": asked.format}
    return streams.message(data | {"size": "auto", "quality": "auto", "background": "opaque"} | values, name)
