"""Our own interface, ``/api/v1``: jobs, their events, the arrays of their steps, their images."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Response
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.images import png_bytes
from diffuscope.lens.latent_preview import LatentRGB
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import plan
from diffuscope.request import Request
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.about import about as capabilities
from diffuscope.serve.http.about import latent_rgb
from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.job import ENDS, Event, Job

PAUSE = 15.0
"""Seconds after which a stream without events has a comment, so that nothing between closes it."""


def router(engine: Engine) -> APIRouter:
    """The routes of an Engine."""
    routes = APIRouter(prefix="/api/v1", tags=["native"])
    fitted: list[LatentRGB] = []
    _add_jobs(routes, engine)
    _add_arrays(routes, engine)

    @routes.get("/about")
    def about() -> dict[str, Any]:
        """What is served: the model, its preset, its parts, the samplers, and the schema of a request."""
        return capabilities(engine.pipe) | {"waiting": engine.waiting}

    @routes.get("/latent-rgb")
    def rgb() -> dict[str, Any]:
        """The linear map from latents to colours in [-1,1], fitted to the VAE: for previews without it."""
        if not fitted:
            fitted.append(latent_rgb(engine.pipe))
        return {"matrix": fitted[0].matrix.tolist(), "offset": fitted[0].offset.tolist(), "error": fitted[0].error}

    @routes.post("/plan")
    def planned(request: Annotated[dict[str, Any], Body(embed=True)]) -> dict[str, Any]:
        """A request with the preset filled in, its noise levels and timesteps; nothing is computed."""
        made = plan(engine.pipe.config, engine.pipe.schedule, Call(**vars(Request.from_json(json.dumps(request)))))
        levels = made.levels
        described = {"request": made.request.to_dict(), "sigmas": levels.sigmas, "timesteps": levels.timesteps}
        return described | {"guided": made.guided, "passes": made.passes}

    @routes.post("/text")
    def text(prompt: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        """The tokens of a text: words, ids, and the places that are left."""
        tokenizer = engine.pipe.tokenizer
        ids = tokenizer.tokenize(prompt)
        return {"ids": ids, "tokens": [tokenizer.tokens[i] for i in ids], "places": tokenizer.length - 2}

    return routes


def _add_jobs(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/jobs", status_code=202)
    def submit(
        http: HttpRequest,
        request: Annotated[dict[str, Any], Body(embed=True)],
        interactive: Annotated[bool, Body(embed=True)] = False,
        slot: Annotated[str, Body(embed=True)] = "",
    ) -> dict[str, Any]:
        """Queue a request; its form is ``request`` of ``/about``. It cancels an older one in the same ``slot``."""
        options = Request.from_json(json.dumps(request))
        return _described(engine.submit(options, owner=_owner(http), interactive=interactive, slot=slot))

    @routes.get("/jobs")
    def jobs() -> list[dict[str, Any]]:
        """All jobs that wait, run, or are kept."""
        return [_described(job) for job in engine.jobs]

    @routes.get("/jobs/{job}")
    def job(job: str) -> dict[str, Any]:
        """One job, with the receipts of the images that are done."""
        return _described(_job(engine, job), receipts_too=True)

    @routes.delete("/jobs/{job}")
    def cancel(job: str) -> dict[str, Any]:
        """Cancel a job: at once if it waits, at its next network call if it runs."""
        found = _job(engine, job)
        found.cancel()
        return _described(found)

    @routes.get("/jobs/{job}/events")
    def events(job: str, last_event_id: Annotated[int, Header()] = 0) -> StreamingResponse:
        """Server-sent events of a job, from the one after Last-Event-ID."""
        return StreamingResponse(_stream(_job(engine, job), last_event_id), media_type="text/event-stream")

    @routes.get("/events")
    def all_events(last_event_id: Annotated[int | None, Header()] = None) -> StreamingResponse:
        """Server-sent events of all jobs, from the one after Last-Event-ID, or from now."""
        after = engine.feed.last if last_event_id is None else last_event_id
        return StreamingResponse(_all(engine, after), media_type="text/event-stream")


def _add_arrays(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/jobs/{job}/images/{image}.png")
    def image(job: str, image: int) -> Response:
        """An image as PNG, with its receipt."""
        result = _at(_job(engine, job).results, image, "image")
        if result is None:
            raise NotFoundError(f"image {image} of job {job} is not done")
        return Response(png_bytes(result.images[0], receipts.chunks(result.receipt, 0)), media_type="image/png")

    @routes.get("/jobs/{job}/images/{image}/steps/{step}/{kind}")
    def state(job: str, image: int, step: int, kind: Literal["x", "x0"]) -> Response:
        """Latents, or the clean estimate, after a step: float32, little-endian, shape [C,h,w] in the header X-Shape."""
        pair = _at(_at(_job(engine, job).states, image, "image"), step, "step")
        return _array(pair[0 if kind == "x" else 1][0], f"{job}-{image}-{step}-{kind}")


def _stream(job: Job, after: int) -> Iterator[str]:
    while True:
        last: Event | None = None
        for event in job.events(after, timeout=PAUSE):
            last, after = event, event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(_fields(event))}\n\n"
        if (last is not None and last.kind in ENDS) or (last is None and job.state in ENDS):
            return
        yield ": \n\n"


def _all(engine: Engine, after: int) -> Iterator[str]:
    yield ": \n\n"  # the reader knows at once that it is heard
    while not engine.stopping:
        told = engine.feed.after(after, PAUSE)
        for each in told:
            after, event = each.id, each.event
            yield f"id: {after}\nevent: {event.kind}\ndata: {json.dumps({'job': each.job.id} | _fields(event))}\n\n"
        if not told:
            yield ": \n\n"


def _fields(event: Event) -> dict[str, Any]:
    fields = {name: getattr(event, name) for name in ("image", "step", "sigma")}
    return {name: value for name, value in fields.items() if value is not None}


def _described(job: Job, *, receipts_too: bool = False) -> dict[str, Any]:
    made = [result is not None for result in job.results]
    described: dict[str, Any] = {"id": job.id, "state": job.state, "images": len(made), "done": sum(made)}
    described |= {"request": job.request.to_dict(), "slot": job.slot, "steps": [len(states) for states in job.states]}
    if job.plan is not None:
        described |= {"sigmas": job.plan.levels.sigmas, "seeds": job.plan.seeds}
    if job.state == "failed":
        described["error"] = str(job.error) if isinstance(job.error, InputError) else "the request failed; see the log"
    if receipts_too:
        described["receipts"] = [None if result is None else dict(result.receipt) for result in job.results]
    return described


def _array(values: Tensor, name: str) -> Response:
    headers = {
        "X-Shape": ",".join(map(str, values.shape)),
        "X-Dtype": "float32",
        "ETag": f'"{name}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    return Response(values.contiguous().numpy().tobytes(), media_type="application/octet-stream", headers=headers)


def _job(engine: Engine, name: str) -> Job:
    job = engine.job(name)
    if job is None:
        raise NotFoundError("no job of that id; it may be forgotten")
    return job


def _at(items: list[Any], index: int, kind: str) -> Any:
    if not 0 <= index < len(items):
        raise NotFoundError(f"no {kind} {index}; there are {len(items)} so far")
    return items[index]


def _owner(http: HttpRequest) -> str:
    return "" if http.client is None else http.client.host
