"""What a server says of its model, so that a page can show what there is and fold what there is not."""

import inspect
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

import torch
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from PIL import Image
from starlette.concurrency import run_in_threadpool

from diffuscope import __version__
from diffuscope.diffusion.samplers import TABLE
from diffuscope.diffusion.samplers.contract import options as sampler_options
from diffuscope.fitting import absent
from diffuscope.lens.latent_preview import LatentRGB, fit_latent_rgb
from diffuscope.loading import choose_device, choose_dtype
from diffuscope.nn.taps import tap_points
from diffuscope.pipeline import Pipeline, codec
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import plan
from diffuscope.pipeline.receipt import dtype_name
from diffuscope.request import WHOLE_RUN, Request
from diffuscope.schema import Group, Options, schema
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.bodies import described, options_of
from diffuscope.serve.http.limits import LIMITS
from diffuscope.serve.http.native import Submission
from diffuscope.serve.http.opening import is_quick


@dataclass(frozen=True, kw_only=True)
class PlanQuery(Options):
    """A request to be planned."""

    request: Annotated[Request, Group("plan")] = field(default_factory=Request)
    """options of the call"""
    image: bool = False
    """whether the call starts from an image"""


EXAMPLES = 8
"""Of a model's prompts that a page shows: a stranger's file may have thousands."""

_PICTURES, _CELLS = 8, 8


def add_about(routes: APIRouter, engine: Engine) -> None:
    """Add the routes."""
    fitted: list[LatentRGB] = []

    @routes.get("/about")
    def about() -> dict[str, Any]:
        """What is served: the model, its preset, its parts, samplers, limits, and the schema of a job."""
        limits = vars(LIMITS) | {"waiting": engine.queue_limit, "per_owner": engine.limits.per_owner}
        return _of_model(engine.pipe) | {"job": schema(Submission), "limits": limits, "waiting": engine.waiting}

    @routes.get("/latent-rgb")
    def rgb() -> dict[str, Any]:
        """The linear map from latents to colours in [-1,1], fitted to the VAE: for previews without it."""
        if not fitted:
            fitted.append(engine.batcher.task(lambda: latent_rgb(engine.pipe)))
        return {"matrix": fitted[0].matrix.tolist(), "offset": fitted[0].offset.tolist(), "error": fitted[0].error}

    @routes.post("/plan", openapi_extra=described(PlanQuery))
    async def planned(http: HttpRequest) -> dict[str, Any]:
        """A request with the preset filled in, its noise levels and timesteps; nothing is computed.

        ``all`` are the levels of the whole schedule, of which a run from an image visits the last.
        """
        query = await options_of(http, PlanQuery)
        LIMITS.check(query.request)
        return await run_in_threadpool(_planned, engine.pipe, query)


def _planned(pipe: Pipeline, query: PlanQuery) -> dict[str, Any]:
    config, blank = pipe.config, Image.new("RGB", (8, 8))
    options = vars(query.request)
    inputs: dict[str, Any] = {"image": blank} if query.image or config.edits or config.inpaints else {}
    inputs |= {"mask_image": blank} if config.inpaints else {}
    made = plan(config, pipe.schedule, Call(**options, **inputs))
    whole = made
    if query.image:
        whole = plan(config, pipe.schedule, Call(**options | {"strength": 1.0}, **inputs))
    return {
        "request": made.request.to_dict(),
        "sigmas": made.levels.sigmas,
        "timesteps": made.levels.timesteps,
        "all": whole.levels.sigmas,
        "guided": made.guided,
        "passes": made.passes,
    }


def _of_model(pipe: Pipeline) -> dict[str, Any]:
    config = pipe.config
    return {
        "version": __version__,
        "model": config.name,
        "shipped": pipe.components.file_name is None,
        "load": _opened(pipe),
        "preset": dict(vars(config.preset)),
        "quick": is_quick(config),
        "draws": config.draws,
        "loras": pipe.adapters.names,
        "embeddings": list(pipe.tokenizer.added_tokens),
        "examples": config.examples[:EXAMPLES],
        "device": str(pipe.device),
        "samplers": _samplers(),
        "request": schema(Request),
        "whole_run": WHOLE_RUN,
        "absent": list(absent(config)),
        "latents": {"channels": config.vae.latent_channels, "factor": config.vae.factor},
        "text_encoders": [{"layers": each.layers, "width": each.width} for each in config.text_encoders],
        "inpaints": config.inpaints,
        "edits": config.edits,
        "zero_snr": config.schedule.zero_snr,
        "token_positions": pipe.tokenizer.length,
        "taps": {name: tap_points(network) for name, network in pipe.components.networks.items()},
    }


def _opened(pipe: Pipeline) -> dict[str, Any]:
    """The arguments of ``load`` by which the model is what it is here, where they are not its own choice."""
    found: dict[str, Any] = {}
    if pipe.device.type != choose_device("auto").type:
        found["device"] = pipe.device.type
    if pipe.dtype != choose_dtype("auto", pipe.device):
        found["dtype"] = dtype_name(pipe.dtype)
    if pipe.engine.converted is not None:
        found["backend"] = "openvino"
    elif (fast := pipe.engine.runs(pipe.unet, None)) != (pipe.device.type == "cuda"):
        found["fast"] = fast
    return found


@cache
def _samplers() -> list[dict[str, Any]]:
    """The table of samplers, with the first sentence of each one's documentation."""
    rows = []
    for name, info in TABLE.items():
        text = (inspect.getdoc(info.function) or "").partition("\n\n")[0]
        defaults = {each: parameter.default for each, parameter in sampler_options(info.function).items()}
        row = {"name": name, "label": info.label, "about": " ".join(text.split()), "options": defaults}
        rows.append(row | {"order": info.order, "calls": info.calls, "noise": info.noise})
    return rows


def latent_rgb(pipe: Pipeline) -> LatentRGB:
    """The linear map from the model's latents to colours, fitted to soft patches of colour that its VAE encodes."""
    generator = torch.Generator().manual_seed(0)
    coarse = (torch.rand(_PICTURES, 3, 3, 3, generator=generator) * 4 - 2).clamp(-1, 1)
    side = _CELLS * pipe.config.vae.factor
    pixels = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        latents = codec.encode(pipe.vae, pixels, None, None, [], pipe.engine)
    return fit_latent_rgb(latents, pixels)
