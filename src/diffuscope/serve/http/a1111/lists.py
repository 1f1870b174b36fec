"""The routes that list what there is, and those that need no sampling."""

import base64
import os
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool

from diffuscope.diffusion.samplers import TABLE
from diffuscope.errors import ImageError, InputError, Unquoted
from diffuscope.images import fit_to_size, png_bytes, to_images, to_pixels
from diffuscope.metadata import read_texts
from diffuscope.metadata.forms import PARAMETERS
from diffuscope.metadata.infotext import split
from diffuscope.metadata.settings import SPACINGS
from diffuscope.pipeline import Pipeline
from diffuscope.schema import loaded_object
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.a1111.table import number, whole
from diffuscope.serve.http.bodies import in_decoder
from diffuscope.serve.http.errors import answer
from diffuscope.serve.http.inputs import decoded
from diffuscope.serve.http.pictures import FILE, MAX_PIXELS, opened

OURS = "diffuscope 4x"
UPSCALERS = {"None": Image.Resampling.LANCZOS, "Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
ANY_OBJECT = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
NOTHING = ("hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info")
NOT_HERE = "this server has no network that describes pictures"


async def object_of(http: HttpRequest) -> dict[str, Any]:
    """The JSON body, which is an object.

    Raises:
        InputError: it is not.
    """
    return loaded_object(await http.body())


def failed(error: BaseException) -> JSONResponse:
    """An error in this interface's form."""
    found = answer(error)
    kind = "InvalidRequest" if found.status == 422 else "ServerError"
    body = {"error": kind, "detail": found.message, "body": found.argument or "", "errors": found.message}
    return JSONResponse(body, found.status, found.headers)


def label(sampler: str) -> str:
    """A sampler's name there."""
    return TABLE[sampler].label if sampler in TABLE else sampler


def add_lists(routes: APIRouter, engine: Engine) -> None:
    """Add the routes."""
    _add_models(routes, engine)
    _add_pictures(routes, engine)
    empty: dict[str, Any] = {
        **{name: [] for name in NOTHING},
        "scripts": {"txt2img": [], "img2img": []},
        "cmd-flags": {},
        "latent-upscale-modes": [{"name": "None"}],
    }
    for path, content in empty.items():
        routes.add_api_route(f"/{path}", _constant(content), methods=["GET"], name=path, summary="What there is of it.")
    for path in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings"):
        routes.add_api_route(f"/{path}", _constant(None), methods=["POST"], name=path, summary="Nothing to look for.")

    @routes.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """The samplers."""
        return [{"name": row.label, "aliases": [row.name, *row.aliases], "options": {}} for row in TABLE.values()]

    @routes.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """The spacings, by their names there."""
        return [
            {"name": name, "label": name.capitalize(), "aliases": None, "default_rho": -1.0, "need_inner_model": False}
            for name in ("automatic", *SPACINGS)
        ]

    @routes.get("/upscalers")
    def upscalers() -> list[dict[str, Any]]:
        """The upscalers of ``/extra-single-image``."""
        base = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
        return [{"name": name, **base} for name in (*UPSCALERS, OURS)]

    @routes.get("/memory")
    def memory() -> dict[str, Any]:
        """The memory of the machine."""
        page, free, total = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        return {"ram": {"free": page * free, "used": page * (total - free), "total": page * total}, "cuda": {}}


def _constant(content: Any) -> Any:
    def get() -> Any:
        return content

    return get


def _add_models(routes: APIRouter, engine: Engine) -> None:
    pipe = engine.pipe

    @routes.get("/sd-models")
    def models() -> list[dict[str, Any]]:
        """The model that is served."""
        name, digest = pipe.config.name, pipe.weights["unet"]
        return [
            {"title": name, "model_name": name, "hash": digest[:10], "sha256": digest, "filename": name, "config": None}
        ]

    @routes.get("/sd-vae")
    def vaes() -> list[dict[str, str]]:
        """A VAE beside that of the model."""
        name = pipe.components.vae_name
        return [] if name is None else [{"model_name": name, "filename": name}]

    @routes.get("/loras")
    def loras() -> list[dict[str, Any]]:
        """The LoRAs that a prompt may name."""
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in pipe.adapters.names]

    @routes.get("/embeddings")
    def embeddings() -> dict[str, Any]:
        """The words of textual inversion."""
        width = pipe.text_encoder.token_embedding.weight.shape[1]
        words = {
            word: {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": width, "vectors": len(ids)}
            for word, ids in pipe.tokenizer.added_tokens.items()
        }
        return {"loaded": words, "skipped": {}}


def _add_pictures(routes: APIRouter, engine: Engine) -> None:
    @routes.post("/png-info", openapi_extra=ANY_OBJECT)
    async def info(http: HttpRequest) -> Any:
        """The texts in a picture."""
        try:
            return await in_decoder(_info, await object_of(http))
        except Exception as error:
            return failed(error)

    @routes.post("/extra-single-image", openapi_extra=ANY_OBJECT)
    async def single(http: HttpRequest) -> Any:
        """A picture, upscaled."""
        try:
            body = await object_of(http)
            image = await in_decoder(lambda: opened(decoded(body.get("image"), "image"), "image"))
            return {"html_info": "", "image": await run_in_threadpool(_upscaled, engine, image, body)}
        except Exception as error:
            return failed(error)

    @routes.post("/extra-batch-images", openapi_extra=ANY_OBJECT)
    async def several(http: HttpRequest) -> Any:
        """Pictures, upscaled."""
        try:
            body = await object_of(http)
            images = await in_decoder(_listed, body)
            made = [await run_in_threadpool(_upscaled, engine, each, body) for each in images]
            return {"html_info": "", "images": made}
        except Exception as error:
            return failed(error)

    @routes.post("/interrogate", openapi_extra=ANY_OBJECT)
    def interrogate() -> JSONResponse:
        """There is no such network here."""
        body = {"error": "NotImplemented", "detail": NOT_HERE, "body": "", "errors": NOT_HERE}
        return JSONResponse(body, 501)


def _info(body: dict[str, Any]) -> dict[str, Any]:
    content = decoded(body.get("image"), "image")
    try:
        texts = read_texts(content).texts
    except ImageError as error:
        raise InputError("image", Unquoted("other bytes"), FILE) from error
    text = next((texts[key] for key in PARAMETERS if key in texts), "")
    written, settings = split(text)
    prompt, marker, negative = written.partition("\nNegative prompt:")
    found = {"Prompt": prompt, "Negative prompt": negative.strip() if marker else "", **settings} if text else {}
    return {"info": text, "items": texts, "parameters": found}


def _listed(body: dict[str, Any]) -> list[Image.Image]:
    images = body.get("imageList")
    if not isinstance(images, list) or not 0 < len(images) <= 16 or not all(isinstance(each, dict) for each in images):
        raise InputError("imageList", images, "1 to 16 objects with data")
    return [opened(decoded(each.get("data"), "imageList"), "imageList") for each in images]


def _upscaled(engine: Engine, image: Image.Image, body: dict[str, Any]) -> str:
    """A picture in another size, as base64 of a PNG."""
    for name in ("gfpgan_visibility", "codeformer_visibility", "extras_upscaler_2_visibility"):
        if number(body, name, 0) != 0:
            raise InputError(name, body[name], "0")
    name = body.get("upscaler_1") or "None"
    if name not in (*UPSCALERS, OURS):
        raise InputError("upscaler_1", name, f"one of {', '.join((*UPSCALERS, OURS))}")
    mode = whole(body, "resize_mode", 0)
    if mode == 1:
        size = whole(body, "upscaling_resize_w", 512), whole(body, "upscaling_resize_h", 512)
    else:
        scale = min(number(body, "upscaling_resize", 2), MAX_PIXELS)
        size = round(image.width * scale), round(image.height * scale)
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise InputError("upscaling_resize", Unquoted(f"{size[0]}x{size[1]}"), f"at most {MAX_PIXELS:,} pixels")
    if name == OURS:
        if image.width * image.height * 16 > MAX_PIXELS:
            raise InputError("image", Unquoted(f"{image.width}x{image.height}"), f"at most {MAX_PIXELS // 16:,} pixels")
        image = engine.batcher.task(lambda: _four_times(engine.pipe, image))
    cropped = mode == 1 and body.get("upscaling_crop", True) is not False
    image = fit_to_size(image, *size) if cropped else image.resize(size, UPSCALERS.get(name, Image.Resampling.LANCZOS))
    return base64.b64encode(png_bytes(image)).decode()


def _four_times(pipe: Pipeline, image: Image.Image) -> Image.Image:
    pixels = to_pixels([image]).to(pipe.device) / 2 + 0.5
    return to_images(pipe.upscaler(pixels) * 2 - 1)[0]
