"""The fields of OpenAI's image requests: which are ours, and which ask for nothing; any other is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from diffuscope.config import ModelConfig
from diffuscope.errors import InputError, Unquoted
from diffuscope.images import fit_to_size
from diffuscope.request import Request
from diffuscope.schema import conformed, options
from diffuscope.serve.http import sizes
from diffuscope.serve.http.errors import NotFoundError
from diffuscope.serve.http.inputs import Source
from diffuscope.serve.http.pictures import opened

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MOST_IMAGES, MOST_PARTIAL = 10, 3

NEUTRAL: dict[str, tuple[object, ...]] = {
    "quality": ("auto", "standard", "medium", "low", "high", "hd"),
    "style": ("vivid", "natural"),
    "moderation": ("auto", "low"),
    "background": ("auto", "opaque"),
    "response_format": ("b64_json",),
    "input_fidelity": ("low",),
}
"""Fields that ask for nothing that this server does differently, with the values of which that is true."""

READ = {"prompt", "model", "n", "size", "output_format", "output_compression", "partial_images", "stream", "user"}
EXTENSIONS = ("seed", "negative_prompt", "num_inference_steps", "guidance_scale", "strength")
"""Options of ours at the top level, where ``extra_body`` of a client puts them."""

ALIASES = ("dall-e-", "gpt-image-", "chatgpt-image-")
"""Beginnings of OpenAI's own names, which programs send unasked: the model that is served."""

ANNOTATIONS = {option.name: option.annotation for option in options(Request)}
SWITCHES = {"true": True, "false": False}
"""Booleans as a form has them."""


@dataclass
class Asked:
    """A request of OpenAI's interface, in our terms."""

    values: dict[str, Any] = field(default_factory=dict)
    """Options of ours."""
    size: tuple[int, int] | None = None
    """Width and height of the answer."""
    format: str = "png"
    quality: int = 100
    stream: bool = False
    partial: int = 0
    """Estimates that are shown of an image that is streamed."""
    source: Source | None = None


def translate(given: Mapping[str, Any], config: ModelConfig) -> Asked:
    """A request's fields; those of a form are texts.

    Raises:
        InputError: names the field.
        NotFoundError: another model.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                raise InputError(name, value, f"one of {', '.join(map(str, NEUTRAL[name]))}")
        elif name not in READ and name not in EXTENSIONS:
            raise InputError(name, value, f"one of the fields {', '.join(sorted({*READ, *EXTENSIONS, *NEUTRAL}))}")
    check_model(given.get("model"), config)
    if not isinstance(given.get("prompt"), str):
        raise InputError("prompt", given.get("prompt"), "a text")
    if given.get("output_format", "png") not in tuple(FORMATS):  # of any type
        raise InputError("output_format", given["output_format"], f"one of {', '.join(FORMATS)}")
    asked = Asked({"prompt": given["prompt"], "num_images_per_prompt": _whole(given, "n", 1, 1, MOST_IMAGES)})
    for name in EXTENSIONS:
        if name in given:
            asked.values[name] = conformed(_parsed(given[name], name), ANNOTATIONS[name], name)
    asked.format = given.get("output_format", "png")
    asked.quality = _whole(given, "output_compression", 100, 0, 100)
    asked.partial = _whole(given, "partial_images", 0, 0, MOST_PARTIAL)
    stream = given.get("stream", False)
    stream = SWITCHES.get(stream) if isinstance(stream, str) else stream
    if not isinstance(stream, bool):
        raise InputError("stream", given["stream"], "true or false")
    asked.stream = stream
    asked.size = _size(given.get("size", "auto"))
    if asked.size is not None:
        take_size(asked, config, asked.size)
    return asked


def check_model(name: object, config: ModelConfig) -> None:
    """Whether a name is that of the model that is served, or one of OpenAI's.

    Raises:
        NotFoundError: it is not.
    """
    if name not in (None, "", "None", config.name) and not str(name).startswith(ALIASES):
        raise NotFoundError(f"the model {str(name)[:100]!r} is not served; there is {config.name!r}")


def take_size(asked: Asked, config: ModelConfig, size: tuple[int, int]) -> None:
    """Ask for a generation that becomes this size."""
    asked.size = size
    asked.values["width"], asked.values["height"] = sizes.generated(config, *size)


def take_picture(asked: Asked, config: ModelConfig, images: list[bytes], masks: list[bytes]) -> None:
    """The picture that is edited, and its mask: what is transparent is generated.

    Raises:
        InputError: names the field.
    """
    if len(images) != 1:
        raise InputError("image", Unquoted(f"{len(images)} pictures"), "one picture")
    image = opened(images[0], "image")
    take_size(asked, config, asked.size or image.size)
    assert asked.size is not None
    image = fit_to_size(image, *asked.size)
    if not masks:
        asked.source = Source(image)
        return
    alpha = opened(masks[0], "mask", mode="RGBA").getchannel("A").resize(asked.size, Image.Resampling.NEAREST)
    mask = alpha.point(lambda seen: 255 * (seen < 128))
    if mask.getbbox() is None:
        raise InputError("mask", Unquoted("no transparent area"), "transparency where something is generated")
    asked.source = Source(image, mask, image, mask)


def _parsed(value: object, name: str) -> object:
    """A number in a form is a text."""
    if not isinstance(value, str) or name == "negative_prompt":
        return value
    try:
        return int(value)
    except ValueError:
        try:
            return float(value)
        except ValueError:
            return value


def _whole(given: Mapping[str, Any], name: str, usual: int, least: int, most: int) -> int:
    value = _parsed(given.get(name, usual), name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(name, value, f"a whole number from {least} to {most}")
    return value


def _size(size: object) -> tuple[int, int] | None:
    if size in ("auto", ""):
        return None
    parts = size.split("x") if isinstance(size, str) else []
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise InputError("size", size, "auto, or WIDTHxHEIGHT in pixels")
    width, height = (int(part) for part in parts)
    if not min(width, height) >= 1 or max(width, height) > min(4096, 16 * min(width, height)):
        raise InputError("size", size, "sides from 1 to 4096, of a ratio of at most 16")
    return width, height
