"""Of ``/api/v1``: inspections, and the modules of the model."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool

from diffuscope.lens.inspect import KINDS, Inspected
from diffuscope.lens.modules import histogram, modules, source
from diffuscope.pipeline.inputs import Call
from diffuscope.request import Request
from diffuscope.schema import schema
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.bodies import in_decoder
from diffuscope.serve.http.callers import owner_of
from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.http.limits import LIMITS
from diffuscope.serve.http.pictures import Pictures
from diffuscope.serve.inspections import Inspections

STATES = {"queued", "running"}


def router(engine: Engine, pictures: Pictures) -> APIRouter:
    """The routes of an Engine."""
    routes = APIRouter(prefix="/api/v1", tags=["inspections"])
    inspections = Inspections(engine)
    _add_modules(routes, engine)

    @routes.get("/inspections")
    def kinds() -> dict[str, Any]:
        """What can be inspected: each kind, its tensors, and the schema of its options."""
        return {name: {"about": kind.help, "options": schema(kind.options)} for name, kind in KINDS.items()}

    @routes.post("/inspections", status_code=202)
    async def submit(
        http: HttpRequest,
        kind: Annotated[str, Body(embed=True)],
        request: Annotated[dict[str, Any], Body(embed=True)],
        options: Annotated[dict[str, Any] | None, Body(embed=True)] = None,
        image: Annotated[str | None, Body(embed=True)] = None,
        mask_image: Annotated[str | None, Body(embed=True)] = None,
        interactive: Annotated[bool, Body(embed=True)] = True,
    ) -> dict[str, Any]:
        """Queue an inspection: its id is that of a job, whose events tell when more is known.

        ``image`` and ``mask_image`` are ids of pictures, for img2img and inpainting.
        """
        asked = Request.from_json(json.dumps(request))
        LIMITS.check(asked)
        inputs = await in_decoder(pictures.inputs, image, mask_image)
        call = Call(**vars(asked), **inputs)
        owner = owner_of(http, "native")
        job = await run_in_threadpool(
            inspections.submit, kind, call, options or {}, owner=owner, interactive=interactive
        )
        return {"id": job.id, "kind": kind, "state": job.state, "calls": len(job.results), "done": 0}

    @routes.get("/inspections/{job}")
    def described(job: str) -> dict[str, Any]:
        """An inspection: its labels, and the shapes of the tensors so far."""
        found, running = _found(inspections, job), engine.job(job)
        shapes = {name: list(value.shape) for name, value in found.tensors.items()}
        done = [] if running is None else [result is not None for result in running.results]
        state = "done" if running is None else running.state
        return {"id": job, "state": state, "calls": len(done), "done": sum(done), "shapes": shapes, **found.about}

    @routes.get("/inspections/{job}/tensors")
    def tensors(job: str) -> Response:
        """The tensors so far, as one safetensors file; labels are JSON in its metadata, under "diffuscope"."""
        running = engine.job(job)
        state = "done" if running is None else running.state  # before the tensors are read, so that none is missed
        found = _found(inspections, job)
        keep = "no-store" if state in STATES else "private, max-age=31536000, immutable"
        headers = {"Cache-Control": keep, "X-State": state}
        return Response(found.to_bytes(), media_type="application/octet-stream", headers=headers)

    return routes


def _add_modules(routes: APIRouter, engine: Engine) -> None:
    @routes.get("/modules")
    def every() -> list[dict[str, Any]]:
        """Every module of the networks: class, parameters, shapes of weights and activations."""
        return [
            {"name": each.name, "kind": each.kind, "parameters": each.parameters, "weights": dict(each.weights)}
            | {"outputs": dict(each.outputs), "source": each.has_source}
            for each in modules(engine.pipe)
        ]

    @routes.get("/modules/{name}/source")
    def text(name: str) -> dict[str, Any]:
        """The source of a module's class, if it is one of this package."""
        return source(engine.pipe, name)

    @routes.get("/modules/{name}/histogram")
    def distribution(name: str) -> dict[str, Any]:
        """How the numbers of a tensor are distributed, such as ``unet.conv_in.weight``."""
        return histogram(engine.pipe, name)


def _found(inspections: Inspections, job: str) -> Inspected:
    found = inspections.found(job)
    if found is None:
        raise NotFoundError("no inspection of that id; it may be forgotten")
    return found
