"""The routes that make images, and those that watch and stop them."""

import base64
import json
import threading
from collections import OrderedDict
from dataclasses import fields
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool

from diffuscope.errors import InputError, Unquoted, nearest
from diffuscope.images import png_bytes
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.serve.engine import Engine
from diffuscope.serve.http import sizes
from diffuscope.serve.http.a1111 import lists
from diffuscope.serve.http.a1111.inputs import source
from diffuscope.serve.http.a1111.table import Asked, restated, translate
from diffuscope.serve.http.bodies import in_decoder
from diffuscope.serve.http.callers import owner_of
from diffuscope.serve.http.inputs import Source
from diffuscope.serve.http.limits import LIMITS
from diffuscope.serve.http.streams import finished
from diffuscope.serve.job import Job
from diffuscope.serve.record import Kept

CALLERS = 256
"""Callers whose settings are remembered, the last ones."""


class Settings:
    """What callers have set by ``POST /options``: each one's own, so that none changes another's images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._own: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, owner: str) -> dict[str, Any]:
        """The settings of a caller."""
        model = self._engine.pipe.config.name
        usual = {"sd_model_checkpoint": model, "sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1}
        with self._lock:
            return usual | {"samples_format": "png"} | self._own.get(owner, {})

    def change(self, owner: str, given: dict[str, Any]) -> None:
        """Set some; unknown ones are let through.

        Raises:
            InputError: a model or VAE that is not there.
        """
        self.check(given)
        with self._lock:
            own = self._own.setdefault(owner, {})
            if "CLIP_stop_at_last_layers" in given:
                own["CLIP_stop_at_last_layers"] = given["CLIP_stop_at_last_layers"]
            self._own.move_to_end(owner)
            while len(self._own) > CALLERS:
                self._own.popitem(last=False)

    def check(self, given: dict[str, Any]) -> None:
        """Refuse settings that ask for another model.

        Raises:
            InputError: a model, VAE or format that is not there.
        """
        pipe = self._engine.pipe
        vae = pipe.components.vae_name
        layers = given.get("CLIP_stop_at_last_layers", 1)
        most = min(encoder.layers for encoder in pipe.config.text_encoders)
        if not isinstance(layers, int) or isinstance(layers, bool) or not 0 <= layers <= most:
            raise InputError("CLIP_stop_at_last_layers", layers, f"a whole number from 1 to {most}")
        known: dict[str, tuple[str, ...]] = {
            "sd_model_checkpoint": (pipe.config.name,),
            "sd_vae": ("Automatic", "None", *([vae] if vae else [])),
            "samples_format": ("png",),
        }
        for name, names in known.items():
            value = given.get(name)
            if value not in (None, "", *names):
                wanted = ", ".join(names)
                raise InputError(name, value, f"one of {wanted}", nearest(str(value), names))


def router(engine: Engine) -> APIRouter:
    """The routes of an Engine."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
    settings = Settings(engine)
    lists.add_lists(routes, engine)
    _add_making(routes, engine, settings)
    _add_watching(routes, engine)

    @routes.get("/options")
    def options(http: HttpRequest) -> dict[str, Any]:
        """The settings of the caller."""
        return settings.of(owner_of(http, "a1111"))

    @routes.post("/options")
    async def change(http: HttpRequest) -> Any:
        """Change some; a model or VAE that is not there is refused."""
        try:
            settings.change(owner_of(http, "a1111"), await lists.object_of(http))
        except Exception as error:
            return lists.failed(error)
        return None

    return routes


def _add_making(routes: APIRouter, engine: Engine, settings: Settings) -> None:
    async def make(http: HttpRequest, *, from_image: bool) -> Any:
        try:
            body = await lists.object_of(http)
            owner = owner_of(http, "a1111")
            asked, origin, call = await in_decoder(_call, engine, settings, owner, body, from_image)
            kept: tuple[Kept, ...] = ("x0",)
            job = await run_in_threadpool(lambda: engine.submit(call, owner=owner, interactive=True, record=kept))
            await finished(http, job)
            if job.state == "failed":
                job.result(0)
            return await run_in_threadpool(_response, job, asked, origin)
        except Exception as error:
            return lists.failed(restated(error) if isinstance(error, InputError) else error)

    @routes.post("/txt2img", openapi_extra=lists.ANY_OBJECT)
    async def txt2img(http: HttpRequest) -> Any:
        """Images of a prompt."""
        return await make(http, from_image=False)

    @routes.post("/img2img", openapi_extra=lists.ANY_OBJECT)
    async def img2img(http: HttpRequest) -> Any:
        """Images of a picture, or of its masked area."""
        return await make(http, from_image=True)


def _call(
    engine: Engine, settings: Settings, owner: str, body: dict[str, Any], from_image: bool
) -> tuple[Asked, Source | None, Call]:
    """A request as our call, with its pictures decoded."""
    config = engine.pipe.config
    asked = translate(body, config, settings.of(owner))
    settings.check(dict(asked.known.get("override_settings") or {}))
    origin = None
    if from_image:
        origin, size = source(asked.known, asked.size)
        width, height = sizes.generated(config, *(asked.size or size))
        asked.size = size
        asked.values |= {"width": width, "height": height}
        strength = asked.known.get("denoising_strength")
        asked.values["strength"] = 0.75 if strength is None else strength
        if config.edits:
            del asked.values["strength"]
            asked.values["image_guidance_scale"] = asked.known.get("image_cfg_scale")
    LIMITS.check(asked.request)
    values: dict[str, Any] = {each.name: getattr(asked.request, each.name) for each in fields(Request)}
    if origin is not None:
        values |= {"image": origin.image, "mask_image": origin.mask}
    return asked, origin, Call(**values)


def _response(job: Job, asked: Asked, origin: Source | None) -> Any:
    results = [result for result in job.results if result is not None]
    if not results:
        return lists.failed(InputError("request", Unquoted("an interruption before the first image"), "an image"))
    contents = []
    for result in results if asked.known.get("send_images", True) is not False else []:
        made = result.images[0] if origin is None else origin.finished(result.images[0])
        image = sizes.answered(made, asked.size)
        texts = receipts.chunks(result.receipt, 0)
        if image is not result.images[0]:  # it is not the image of the receipt any more
            del texts[receipts.JSON_KEY]
        contents.append(base64.b64encode(png_bytes(image, texts)).decode())
    info = _info(results, asked, job)
    hidden = ("init_images", "mask")
    parameters = {name: None if name in hidden else value for name, value in asked.known.items()}
    return {"images": contents, "parameters": parameters, "info": json.dumps(info)}


def _info(results: list[Result], asked: Asked, job: Job) -> dict[str, Any]:
    first = results[0].receipt
    prompts = [result.receipt["prompt"][0] for result in results]
    negative = ["".join((result.receipt["negative_prompt"] or [""])[:1]) for result in results]
    seeds = [result.receipt["seed"][0] for result in results]
    image = results[0].images[0]
    width, height = asked.size or image.size
    return {
        "prompt": prompts[0],
        "all_prompts": prompts,
        "negative_prompt": negative[0],
        "all_negative_prompts": negative,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": seeds[0],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "generated": f"{first['width']}x{first['height']}, upscaled to {image.width}x{image.height}",
        "sampler_name": lists.label(first["sampler"]),
        "cfg_scale": first["guidance_scale"],
        "steps": first["num_inference_steps"],
        "batch_size": asked.known.get("batch_size") or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first["model"],
        "sd_model_hash": first["weights"]["unet"][:10],
        "sd_vae_name": first["vae"],
        "sd_vae_hash": first["weights"]["vae"][:10],
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first["strength"] if first["image"] is not None else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [receipts.infotext(result.receipt, 0) for result in results],
        "styles": [],
        "job_timestamp": _now(),
        "clip_skip": first["clip_skip"] + 1,
        "is_using_inpainting_conditioning": False,
        "version": f"diffuscope {first['versions']['diffuscope']}",
        "interrupted": job.state == "cancelled",
        "ignored": asked.ignored,
        "notes": first["notes"],
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%d%H%M%S")


def _add_watching(routes: APIRouter, engine: Engine) -> None:
    def own(http: HttpRequest) -> list[Job]:
        owner = owner_of(http, "a1111")
        return [job for job in engine.jobs if job.owner == owner and not job.ended]

    @routes.get("/progress")
    def progress(http: HttpRequest, skip_current_image: bool = False) -> dict[str, Any]:
        """How far the caller's requests are."""
        jobs = own(http)
        return _progress(engine, jobs, with_image=not skip_current_image)

    @routes.post("/interrupt")
    def interrupt(http: HttpRequest) -> dict[str, Any]:
        """End the caller's requests; images that are done are answered."""
        for job in own(http):
            job.cancel()
        return {}

    @routes.post("/skip")
    def skip(http: HttpRequest) -> dict[str, Any]:
        """End the caller's oldest request."""
        for job in own(http)[:1]:
            job.cancel()
        return {}


def _progress(engine: Engine, jobs: list[Job], *, with_image: bool) -> dict[str, Any]:
    steps = [len(job.plan.levels.sigmas) - 1 for job in jobs if job.plan is not None]
    total = sum(count * len(job.steps) for count, job in zip(steps, jobs, strict=True))
    share = sum(sum(job.steps) for job in jobs) / max(total, 1)
    running = next((job for job in jobs if job.state == "running"), None)
    image = None
    current = 0
    if running is not None:
        current = max(range(len(running.steps)), key=lambda k: (running.results[k] is None, running.steps[k]))
        last = running.steps[current] - 1
        x0 = engine.array(running.id, current, last, "x0")
        if with_image and x0 is not None:
            image = base64.b64encode(png_bytes(engine.decode(x0[None])[0])).decode()
    taken = monotonic() - min((job.submitted for job in jobs), default=monotonic())
    return {
        "progress": share,
        "eta_relative": taken * (1 - share) / share if share else 0.0,
        "state": {
            "skipped": False,
            "interrupted": any(job.cancelling for job in jobs),
            "stopping_generation": False,
            "job": "" if running is None else running.id,
            "job_count": sum(len(job.results) for job in jobs),
            "job_timestamp": _now() if jobs else "0",
            "job_no": sum(result is not None for job in jobs for result in job.results),
            "sampling_step": 0 if running is None else running.steps[current],
            "sampling_steps": steps[0] if steps else 0,
        },
        "current_image": image,
        "textinfo": None,
    }
