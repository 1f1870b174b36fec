"""What one call asks for, checked before any network runs and with every preset filled in."""

import contextlib
import math
import operator
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, SupportsIndex, cast

from diffuscope.config import REFINER_SIZES, FinalSigma, ModelConfig
from diffuscope.diffusion import samplers
from diffuscope.diffusion.schedules import Schedule, check_strength, img2img_levels, slice_levels
from diffuscope.diffusion.thresholding import OPTIONS, thresholded
from diffuscope.errors import InputError
from diffuscope.pipeline import guiding
from diffuscope.types import Levels

MAX_SIDE = 8192
MAX_IMAGES = 1024
SEEDS = 1 << 63
UPSCALES = (1, 4)
FARTHEST = 1 << 16
SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Of beauty, from 0 to 10: what SDXL's refiner is told of the wanted picture and of the unwanted one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call with nothing left to default. Image k is of prompt ``k // num_images_per_prompt``."""

    prompt: tuple[str, ...]
    negative_prompt: tuple[str, ...]
    """One per prompt."""
    num_inference_steps: int
    guidance_scale: float
    guidance_options: guiding.Options
    """Those that were given; ``guiding`` names them."""
    seed: tuple[int, ...]
    """One per image."""
    sampler: str
    sampler_options: Mapping[str, float | str]
    """Those that were given."""
    spacing: str | tuple[float, ...]
    """The spacing's name, or the noise levels that were given."""
    final_sigma: FinalSigma | None
    """None is the sampler's own end."""
    thresholding: Mapping[str, float]
    """Options of ``thresholding.thresholded``."""
    levels: Levels
    """What the run visits: for image-to-image the last part of them."""
    planned: tuple[float, ...]
    """What the sampler is told: those levels, and where the run stops early the further ones, which it plans for."""
    height: int
    width: int
    num_images_per_prompt: int
    strength: float | None
    """None without a start image, and with ``denoising_start``."""
    denoising_start: float | None
    denoising_end: float | None
    upscale: int
    clip_skip: int
    guided: bool
    """Whether the U-Net is called for the negative prompts too."""
    original_size: tuple[int, int] | None
    """Height and width, None where the model reads no sizes."""
    crops_coords_top_left: tuple[int, int] | None
    target_size: tuple[int, int] | None
    sizes: tuple[float, ...]
    """What the U-Net is told beside the prompt: those three, or for a refiner two of them and a score."""
    negative_sizes: tuple[float, ...]

    @property
    def images(self) -> int:
        """How many pictures the call makes."""
        return len(self.seed)


def texts(value: object, name: str) -> tuple[str, ...]:
    """One text or a list of texts as a tuple.

    Raises:
        InputError: something else, an empty list, or text that is not valid Unicode.
    """
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise InputError(f"{name} is {_short(value)}; give one text or a list of texts")
    if not found:
        raise InputError(f"{name} is an empty list; give at least one text (an empty text is allowed)")
    for text in found:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{name} holds U+{ord(text[error.start]):04X}, half of a character; give valid Unicode"
            ) from None
    return tuple(found)


def per_prompt(value: object, prompts: int) -> tuple[str, ...]:
    """The negative prompt of each prompt.

    Raises:
        InputError: a list of another length.
    """
    negative = texts("" if value is None else value, "negative_prompt")
    if len(negative) == 1:
        return negative * prompts
    if len(negative) != prompts:
        raise InputError(f"{len(negative)} negative prompts for {prompts} prompts; give one, or one for each")
    return negative


def whole(value: object, name: str, low: int, high: int) -> int:
    """``value`` as an int.

    Raises:
        InputError: it is no whole number from ``low`` to ``high``.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(TypeError):  # an array of several numbers
            number = operator.index(value)
            if low <= number <= high:
                return number
    raise InputError(f"{name} is {_short(value)}; give a whole number from {low} to {high}")


def number(value: object, name: str) -> float:
    """``value`` as a float.

    Raises:
        InputError: it is no finite number.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise InputError(f"{name} is {_short(value)}; give a finite number")


def side(value: object, name: str, factor: int) -> int:
    """A height or width in pixels.

    Raises:
        InputError: not a multiple of ``factor`` from ``factor`` to ``MAX_SIDE``.
    """
    pixels = whole(value, name, factor, MAX_SIDE)
    if pixels % factor:
        below = max(pixels - pixels % factor, factor)
        raise InputError(f"{name} is {pixels}; give a multiple of {factor}, such as {below} or {below + factor}")
    return pixels


def pair(value: object, name: str) -> tuple[int, int]:
    """Two lengths in pixels, the vertical one first.

    Raises:
        InputError: not two whole numbers from 0 to ``FARTHEST``.
    """
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise InputError(f"{name} is {_short(value)}; give two numbers of pixels, the vertical one first")
    return whole(value[0], name, 0, FARTHEST), whole(value[1], name, 0, FARTHEST)


def seeds(value: object, images: int) -> tuple[int, ...]:
    """One seed per image: ``seed + k`` for one integer, the integers themselves for a list, drawn for None.

    Raises:
        InputError: not one seed per image, or a seed outside 0 to 2^63 - 1.
    """
    if value is None:
        value = secrets.randbelow(1 << 32)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) != images:
            raise InputError(f"{len(value)} seeds for {images} images; give one integer, or one for each image")
        return tuple(whole(seed, "seed", 0, SEEDS - 1) for seed in value)
    first = whole(value, "seed", 0, SEEDS - images)
    return tuple(range(first, first + images))


def options(value: object, sampler: str) -> dict[str, float | str]:
    """Options of the sampler of that name, of the kinds that they have there; None is none.

    Raises:
        InputError: no mapping, or an option that this sampler does not have or not with such a value.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f'sampler_options is {_short(value)}; give a dict such as {{"eta": 0.5}}')
    known = samplers.options(sampler)
    found: dict[str, float | str] = {}
    for name, given in value.items():
        if name not in known:
            has = ", ".join(f"{key}={default!r}" for key, default in known.items()) or "none"
            raise InputError(f"the sampler {sampler!r} has no option {name!r}; it has {has}")
        if isinstance(known[name], str):
            if not isinstance(given, str):
                raise InputError(f"{name} is {_short(given)}; give a word such as {known[name]!r}")
            found[name] = given
        else:
            found[name] = whole(given, name, 1, 1000) if isinstance(known[name], int) else number(given, name)
    return found


def thresholds(value: object) -> dict[str, float]:
    """Options of ``thresholding.thresholded`` as floats; None is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not set(value) <= set(OPTIONS):
        raise InputError("thresholding", value, "a dict with limit, or with ratio and most", "Such as {'limit': 1}.")
    found = {name: number(given, f"{name} of thresholding") for name, given in value.items()}
    try:
        thresholded(lambda x, _: x, **found)
    except InputError as error:
        raise InputError(f"thresholding.{error.argument}", error.got, error.want, error.hint) from None
    return found


def upscaling(value: object, preset: int) -> int:
    """How many times larger the pictures come out than the network makes them.

    Raises:
        InputError: not one of ``UPSCALES``.
    """
    value = preset if value is None else value
    if type(value) is not int or value not in UPSCALES:
        raise InputError(f"upscale is {_short(value)}; give {' or '.join(map(str, UPSCALES))}")
    return value


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call's arguments as they were given, but for the prompts, which are texts."""

    prompt: tuple[str, ...]
    negative_prompt: object
    count: object
    seed: object
    height: object
    width: object
    guidance_scale: object
    guidance_options: object
    upscale: object
    steps: object
    sampler: object
    sampler_options: object
    sigmas: object
    final_sigma: object
    thresholding: object
    strength: object
    from_image: bool
    """Whether there is a start image; without, ``strength`` is checked and not used."""
    denoising_start: object
    denoising_end: object
    masked: bool
    clip_skip: object
    original_size: object
    crops_coords_top_left: object
    target_size: object


def resolve(config: ModelConfig, schedule: Schedule, asked: Asked) -> Request:
    """What is asked for, checked, with the model's preset where it is None.

    Raises:
        InputError: an argument is not possible; the message names it.
    """
    prompts = len(asked.prompt)
    per_text = whole(asked.count, "num_images_per_prompt", 1, MAX_IMAGES)
    images = prompts * per_text
    if images > MAX_IMAGES:
        raise InputError(f"{prompts} prompts x {per_text} = {images} images; make at most {MAX_IMAGES} in one call")
    preset = config.preset
    first, last = _handed_over(asked)
    strength = _strength(asked) if first is None else None
    name, spacing = _solver(config, asked)
    wanted = preset.steps if asked.steps is None and isinstance(spacing, str) else asked.steps
    steps = None if wanted is None else whole(wanted, "num_inference_steps", 1, config.schedule.train_steps)
    end = cast(FinalSigma | None, asked.final_sigma)  # another is refused here, by its name
    levels = schedule.levels(steps, sampler=name, sigmas=spacing, final_sigma=end)
    count = len(levels.sigmas) - 1
    # All of a masked picture made anew begins as a picture from text does.
    if strength is not None and not (asked.masked and strength == 1):
        levels = img2img_levels(levels, strength)
    unit = samplers.TABLE[name].variance_preserving
    if first is not None:
        levels = slice_levels(levels, config.schedule, denoising_start=first, unit=unit)
    planned = levels.sigmas
    if last is not None:
        levels = slice_levels(levels, config.schedule, denoising_end=last, unit=unit)
    scale = preset.guidance_scale if asked.guidance_scale is None else asked.guidance_scale
    guided = scale != 1.0 and config.unet.guidance_dim is None
    ways = guiding.options(asked.guidance_options, scale, guided=guided)
    guiding.check_levels(ways, levels.sigmas)
    height = side(preset.height if asked.height is None else asked.height, "height", config.vae.factor)
    width = side(preset.width if asked.width is None else asked.width, "width", config.vae.factor)
    return Request(
        prompt=asked.prompt,
        negative_prompt=per_prompt(asked.negative_prompt, prompts),
        num_inference_steps=count,
        guidance_scale=number(scale, "guidance_scale"),
        guidance_options=ways,
        seed=seeds(asked.seed, images),
        sampler=name,
        sampler_options=options(asked.sampler_options, name),
        spacing=spacing,
        final_sigma=end,
        thresholding=thresholds(asked.thresholding),
        levels=levels,
        planned=planned,
        height=height,
        width=width,
        num_images_per_prompt=per_text,
        strength=strength,
        denoising_start=first,
        denoising_end=last,
        upscale=upscaling(asked.upscale, preset.upscale),
        clip_skip=whole(asked.clip_skip, "clip_skip", 0, _most_skipped(config)),
        guided=guided,
        **_sizes(config, asked, (height, width)),
    )


def _strength(asked: Asked) -> float | None:
    """The part of the run that is done on a start image; None without one, but checked all the same."""
    part = number(asked.strength, "strength")
    check_strength(part)
    return part if asked.from_image else None


def _handed_over(asked: Asked) -> tuple[float | None, float | None]:
    """The shares of the training times between which this model denoises; None is to the end on that side.

    Raises:
        InputError: they are no shares in that order, or not possible with what else is asked for.
    """
    given = {"denoising_start": asked.denoising_start, "denoising_end": asked.denoising_end}
    shares = {name: None if value is None else number(value, name) for name, value in given.items()}
    for name, share in shares.items():
        if share is not None and not 0 < share < 1:
            raise InputError(f"{name} is {share:g}; give a share between 0 and 1 of the way from noise, such as 0.8")
        if share is not None and asked.masked:
            raise InputError(f"{name} and a mask are given; a model can hand over a whole picture only")
    start, end = shares.values()
    if start is not None and end is not None and start >= end:
        raise InputError(f"denoising_start {start:g} is not before denoising_end {end:g}")
    return start, end


def _most_skipped(config: ModelConfig) -> int:
    """How many layers of every text encoder can be left out."""
    return min(encoder.layers - 1 - (encoder.states == "penultimate") for encoder in config.text_encoders)


def _sizes(config: ModelConfig, asked: Asked, usual: tuple[int, int]) -> dict[str, Any]:
    """The fields of a request that tell the U-Net the picture's size, as Podell et al. 2023, section 2.2, has it."""
    given = {
        "original_size": (asked.original_size, usual),
        "crops_coords_top_left": (asked.crops_coords_top_left, (0, 0)),
        "target_size": (asked.target_size, usual),
    }
    if not config.sizes:
        for name, (value, _) in given.items():
            if value is not None:
                raise InputError(f"{name} is {_short(value)}, but this model reads no sizes; leave it out")
        return {**dict.fromkeys(given), "sizes": (), "negative_sizes": ()}
    pairs = {name: other if value is None else pair(value, name) for name, (value, other) in given.items()}
    original, crop, target = pairs.values()
    if config.sizes == REFINER_SIZES:
        scores = {"sizes": SCORE, "negative_sizes": NEGATIVE_SCORE}
        return pairs | {name: (*original, *crop, score) for name, score in scores.items()}
    sizes = (*original, *crop, *target)
    return pairs | {"sizes": sizes, "negative_sizes": sizes}


def _solver(config: ModelConfig, asked: Asked) -> tuple[str, str | tuple[float, ...]]:
    """The sampler's name and the spacing. A fused name ("DPM++ 2M Karras") sets the spacing, unless it is given."""
    sampler = config.preset.sampler if asked.sampler is None else asked.sampler
    if not isinstance(sampler, str):
        raise InputError(f"sampler is {_short(sampler)}; give a name: {', '.join(samplers.TABLE)}")
    found = samplers.find(sampler)
    sigmas = asked.sigmas
    if sigmas is None:
        sigmas = found.spacing or config.preset.sigmas
    if isinstance(sigmas, str):
        return found.info.name, sigmas
    if not isinstance(sigmas, Sequence):
        raise InputError(f"sigmas is {_short(sigmas)}; give a spacing's name or a list of noise levels")
    return found.info.name, tuple(number(sigma, "a noise level in sigmas") for sigma in sigmas)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
