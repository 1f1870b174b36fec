"""A request and a model's config: the preset filled in, and what the model cannot do. Imports no torch."""

import secrets
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from diffuscope.config import MAX_PIXELS, REFINER_SIZES, ModelConfig, Preset
from diffuscope.errors import InputError, Unquoted
from diffuscope.request import Request, image_options

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""From 0 to 10: what SDXL's refiner reads for the prompt and for the negative prompt."""

SIZE_OPTIONS = ("original_size", "crops_coords_top_left", "target_size")


def check(config: ModelConfig, request: Request) -> None:
    """Refuse options that the model does not have.

    Raises:
        InputError: an option is not possible with this model.
    """
    most = min(encoder.layers - 1 - (encoder.states == "penultimate") for encoder in config.text_encoders)
    if request.clip_skip > most:
        raise InputError("clip_skip", request.clip_skip, f"a whole number from 0 to {most}")
    for name, (want, hint) in absent(config).items():
        if (value := getattr(request, name)) != getattr(Request, name):
            raise InputError(name, value, want, hint)


def absent(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """Options that such a model does not have -> what it wants instead, and a hint."""
    found = {} if config.edits else {"image_guidance_scale": (f"None, since {config.name!r} does not edit images", "")}
    sizes = () if config.sizes else SIZE_OPTIONS
    found |= dict.fromkeys(sizes, ("None, since only SDXL has size conditioning", ""))
    for name in image_options() if config.edits else ():
        found[name] = (f"no {name}", "image_guidance_scale keeps more of the image")
    return found


def filled(config: ModelConfig, request: Request, sampler: str, spacing: str | None) -> Preset:
    """The model's preset with the request's options filled in.

    Args:
        config: of the model.
        request: without a size, it has the preset's.
        sampler: our name of the request's sampler, or of the preset's.
        spacing: that of a fused name ("DPM++ 2M Karras").

    Raises:
        InputError: the size or the number of steps is not possible.
    """
    preset, given = config.preset, {field.name: getattr(request, field.name) for field in fields(Preset)}
    own = sampler == preset.sampler  # the preset's options and end are those of its sampler
    given["sampler"] = sampler
    given["sampler_options"] = {**(preset.sampler_options if own else {}), **request.sampler_options}
    if request.sigmas is None:
        given["sigmas"] = spacing
    elif not isinstance(request.sigmas, str) and request.num_inference_steps is None:
        given["num_inference_steps"] = len(request.sigmas) - 1
    if not own or not isinstance(given["sigmas"] or preset.sigmas, str):
        preset = replace(preset, final_sigma=None)
    preset = replace(preset, **{name: value for name, value in given.items() if value is not None})
    _check_size(preset, config.vae.factor)
    if preset.num_inference_steps > (most := config.schedule.train_steps):
        raise InputError("num_inference_steps", preset.num_inference_steps, f"a whole number from 1 to {most}")
    return preset


def _check_size(preset: Preset, factor: int) -> None:
    """The VAE makes images of that size, and they can be read again."""
    for name in ("height", "width"):
        if (pixels := getattr(preset, name)) % factor:
            below = max(pixels - pixels % factor, factor)
            raise InputError(name, pixels, f"a multiple of {factor}, such as {below} or {below + factor}")
    if preset.height * preset.width * preset.upscale**2 > MAX_PIXELS:
        sides = f"{preset.width * preset.upscale}x{preset.height * preset.upscale}"
        got, want = Unquoted(f"{preset.upscale}, so {sides}"), f"an image of at most {MAX_PIXELS:,} pixels"
        raise InputError("upscale", got, want, "Use upscale=1 or a smaller size")


class Sizes(NamedTuple):
    """SDXL's size conditioning (Podell et al. 2023, section 2.2); all empty where the model has none."""

    options: dict[str, Any]
    """By the names of a request."""
    values: tuple[float, ...]
    """What the U-Net reads for the prompt."""
    negative: tuple[float, ...]
    """What it reads for the negative prompt."""


def sizes(config: ModelConfig, request: Request, preset: Preset) -> Sizes:
    """The size options with their defaults, and what the U-Net reads of them."""
    if not config.sizes:
        return Sizes({}, (), ())
    usual = (preset.height, preset.width)
    options = {
        name: default if (given := getattr(request, name)) is None else given
        for name, default in zip(SIZE_OPTIONS, (usual, (0, 0), usual), strict=True)
    }
    original, crop, target = options.values()
    if config.sizes == REFINER_SIZES:
        return Sizes(options, (*original, *crop, AESTHETIC_SCORE), (*original, *crop, NEGATIVE_AESTHETIC_SCORE))
    values = (*original, *crop, *target)
    return Sizes(options, values, values)


def seeds_of(seed: int | Sequence[int] | None, images: int) -> tuple[int, ...]:
    """One seed per image: ``seed + k`` for an integer, a list as it is, a random start for None."""
    if isinstance(seed, Sequence):
        if len(seed) != images:
            raise InputError("seed", seed, f"one whole number, or one per image ({images})")
        return tuple(seed)
    first = secrets.randbelow(1 << 32) if seed is None else seed
    if first > (1 << 63) - images:
        raise InputError("seed", seed, f"a whole number from 0 to 2^63 - {images}")
    return tuple(range(first, first + images))
