"""Of ``/api/v1``: pictures and their receipts, and the arrays of steps."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from diffuscope.errors import ImageError, InputError, Unquoted
from diffuscope.images import png_bytes
from diffuscope.metadata import read_texts, settings_of
from diffuscope.metadata.settings import OTHERS
from diffuscope.pipeline import receipt as receipts
from diffuscope.request import Request
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.bodies import file_of, in_decoder
from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.http.native import find
from diffuscope.serve.http.pictures import FILE, Pictures
from diffuscope.serve.http.streams import picture_id
from diffuscope.serve.record import Kept

IMMUTABLE = "private, max-age=31536000, immutable"

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["picture"],
                    "properties": {"picture": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def add_arrays(routes: APIRouter, engine: Engine, pictures: Pictures) -> None:
    """Add the routes."""

    @routes.post("/pictures", status_code=201, openapi_extra=FORM)
    async def send(http: HttpRequest) -> dict[str, Any]:
        """Keep a PNG, JPEG or WebP file for later jobs; its id is the hash of its bytes."""
        id, image = await in_decoder(pictures.add, await file_of(http, "picture"))
        return {"id": id, "width": image.width, "height": image.height}

    @routes.get("/pictures/{id}.png", response_class=Response)
    def picture(http: HttpRequest, id: str) -> Response:
        """A picture that was made, with its receipt, or that was sent in, as it was sent."""
        headers = {"ETag": f'"{id}"', "Cache-Control": IMMUTABLE}
        content = pictures.content(id)
        if http.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_kind(content), headers=headers)

    @routes.get("/jobs/{job}/images/{image}.png", response_class=Response)
    def image(http: HttpRequest, job: str, image: int) -> Response:
        """An image of a job, with its receipt."""
        return picture(http, picture_id(job, image))

    @routes.post("/receipt", openapi_extra=FORM)
    async def receipt(http: HttpRequest) -> dict[str, Any]:
        """The request in a picture of ours, or of another program, as far as it can be made here."""
        return await run_in_threadpool(described, await file_of(http, "picture"))

    @routes.get("/jobs/{job}/images/{image}/steps/{step}/{kind}.png", response_class=Response)
    def decoded(http: HttpRequest, job: str, image: int, step: int, kind: Kept) -> Response:
        """An array of a step, decoded by the VAE: the network's own size, not upscaled."""
        name = f"{job}-{image}-{step}-{kind}"
        headers = {"ETag": f'"{name}-decoded"', "Cache-Control": IMMUTABLE}
        if http.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        content = png_bytes(engine.decode(kept(job, image, step, kind)[None])[0])
        return Response(content, media_type="image/png", headers=headers)

    @routes.get("/jobs/{job}/images/{image}/steps/{step}/{kind}", response_class=Response)
    def state(http: HttpRequest, job: str, image: int, step: int, kind: Kept) -> Response:
        """An array of a step: float32, little-endian, shape [C,h,w] in X-Shape. It never changes.

        ``x`` are the latents after the step, ``x0`` its clean estimate, ``cond`` and ``uncond`` what guidance combined.
        """
        return array(http, kept(job, image, step, kind), f"{job}-{image}-{step}-{kind}")

    def kept(job: str, image: int, step: int, kind: Kept) -> Tensor:
        find(engine, job)
        values = engine.array(job, image, step, kind)
        if values is None:
            raise NotFoundError(f"no {kind} of step {step} of image {image}: not recorded, not there yet, or forgotten")
        return values


def array(http: HttpRequest, values: Tensor, name: str) -> Response:
    """An array that never changes."""
    headers = {
        "X-Shape": ",".join(map(str, values.shape)),
        "X-Dtype": str(values.dtype).removeprefix("torch."),
        "ETag": f'"{name}"',
        "Cache-Control": IMMUTABLE,
    }
    if http.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(values.contiguous().numpy().tobytes(), media_type="application/octet-stream", headers=headers)


def described(content: bytes) -> dict[str, Any]:
    """What the texts of a picture say of its making.

    Raises:
        InputError: no picture, or nothing in it.
    """
    try:
        texts = read_texts(content).texts
        if receipts.JSON_KEY in texts:
            return _ours(receipts.read(content))
    except ImageError as error:
        raise InputError("picture", Unquoted("other bytes"), f"{FILE}, with an undamaged receipt") from error
    settings, _ = settings_of(texts)
    if settings is None:
        raise InputError("picture", Unquoted("one without a receipt"), "one that says how it was made")
    options = {name: value for name, value in settings.options.items() if name not in OTHERS}
    return {
        "program": settings.program,
        "request": _changed(Request.from_dict(options)),
        "model": settings.options.get("model"),
        "inputs": ["image"] if "strength" in options else [],
        "edits": [],
        "unused": settings.unused,
        "notes": settings.notes,
    }


def _ours(receipt: receipts.Receipt) -> dict[str, Any]:
    """One image of a receipt as a request of its own."""
    index, request = receipt["image_index"], receipts.request_of(receipt).to_dict()
    prompt = index // receipt["num_images_per_prompt"]
    request |= {"prompt": request["prompt"][prompt], "seed": request["seed"][index], "num_images_per_prompt": 1}
    if request["negative_prompt"] is not None:
        request["negative_prompt"] = request["negative_prompt"][prompt]
    return {
        "program": f"diffuscope {receipt['versions'].get('diffuscope')}",
        "request": _changed(Request.from_dict(request)),
        "model": receipt["model"],
        "inputs": [name for name in ("image", "mask_image") if receipt[name] is not None],
        "edits": receipt["edits"],
        "unused": {},
        "notes": receipt["notes"],
        "receipt": receipt,
    }


def _changed(request: Request) -> dict[str, Any]:
    """The options that are not the default."""
    usual = Request().to_dict()
    return {name: value for name, value in request.to_dict().items() if value != usual[name]}


def _kind(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if content.startswith(b"\xff\xd8") else "image/webp"
