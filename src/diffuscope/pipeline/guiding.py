"""Other ways to guide, as plain values: checked with the call, written into its receipt, and replayed.

What the functions of ``diffusion.guidance_variants`` and ``diffusion.loss_guidance`` do, by name and number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from diffuscope.config import Prediction
from diffuscope.diffusion.guidance_variants import (
    Norm,
    Rule,
    Scale,
    falling,
    interval,
    joined,
    joined_in_one,
    norm_rescale,
    rescaled,
)
from diffuscope.diffusion.loss_guidance import Decode, colour_loss, loss_guidance
from diffuscope.errors import InputError
from diffuscope.types import Denoiser

if TYPE_CHECKING:
    from diffuscope.pipeline.request import Request

NUMBERS = {"rescale": 1, "end": 1, "interval": 2, "colour": 3, "colour_scale": 1, "colour_low": 1}
"""Option -> how many numbers it takes."""

WORDS: dict[str, tuple[str, ...]] = {"norm": get_args(Norm), "shape": ("linear", "cosine")}
"""Option -> the words it may be."""

JOINING = {"rescale", "norm", "end", "shape", "interval"}
"""Those that say how the two estimates are joined, and so need both."""

NEEDED = {"shape": "end", "colour_scale": "colour", "colour_low": "colour"}
"""Option -> the one without which it says nothing."""

COLOUR_SCALE = 10.0
"""Of sigma^2 times the gradient of the class's loss (weight 40): a picture takes the colour and stays one."""

Options = Mapping[str, Any]
"""JSON values, each a number, a word, or a list of numbers."""


def options(value: object, scale: object, *, guided: bool) -> dict[str, Any]:
    """The options as a receipt holds them; None is none.

    Args:
        value: as it was given.
        scale: of the guidance.
        guided: whether the U-Net is called for the negative prompts too.

    Raises:
        InputError: no mapping, an option that there is not, not with such a value, or not beside another.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f'guidance_options is {value!r}; give a dict such as {{"rescale": 0.7}}')
    found = {name: _checked(name, each) for name, each in value.items()}
    for name in found:
        if name in NEEDED and NEEDED[name] not in found:
            raise InputError(f"guidance option {name} is given without {NEEDED[name]}; give both, or neither")
        if name in JOINING and not guided:
            raise InputError(f"guidance option {name} wants guidance, and guidance_scale is {scale}; give 5, say")
    if {"rescale", "norm"} <= found.keys():
        raise InputError("guidance options rescale and norm are two ways to do one thing; give one of them")
    _tried(found)
    return found


def _checked(name: object, value: object) -> Any:
    """The value of one option, a list where it is several numbers."""
    if name in WORDS:
        if value not in WORDS[str(name)]:
            raise InputError(f"guidance option {name} is {value!r}; give one of {', '.join(WORDS[str(name)])}")
        return value
    if name not in NUMBERS:
        raise InputError(f"there is no guidance option {name!r}; there are {', '.join((*NUMBERS, *WORDS))}")
    count = NUMBERS[str(name)]
    values = [value] if count == 1 else value
    if (
        not isinstance(values, list | tuple)
        or len(values) != count
        or not all(isinstance(each, Real) and not isinstance(each, bool) and math.isfinite(each) for each in values)
    ):
        raise InputError(f"guidance option {name} is {value!r}; give {count} finite number{'s' * (count > 1)}")
    numbers = [float(each) for each in values]
    return numbers[0] if count == 1 else numbers


def _tried(found: Options) -> None:
    """Make each once, so that a value outside its range is refused here."""
    rule_of(found, 1.0, "epsilon")
    if "interval" in found:
        interval(1.0, *found["interval"])
    if "colour" in found:
        colour_loss(*found["colour"])


def joins(found: Options) -> bool:
    """Whether an option says how the two estimates are joined."""
    return not JOINING.isdisjoint(found)


def scale_of(request: "Request") -> Scale:
    """The scale of the guidance at a noise level of this run."""
    found, start = request.guidance_options, request.guidance_scale
    inside: Scale = lambda _: start  # noqa: E731
    if "end" in found:
        inside = falling(start, found["end"], request.levels.sigmas, found.get("shape", "linear"))
    if "interval" not in found:
        return inside
    gate = interval(2.0, *found["interval"])
    return lambda sigma: inside(sigma) if gate(sigma) != 1.0 else 1.0


def rule_of(found: Options, scale: float, prediction: Prediction) -> Rule:
    """How the two estimates are joined at one scale, for a network of that kind of prediction."""
    if "norm" in found:
        return norm_rescale(scale, found["norm"], prediction)
    if "rescale" in found:
        return rescaled(scale, found["rescale"], prediction)
    return lambda uncond, cond, x, sigma: torch.lerp(uncond, cond, scale)  # noqa: ARG005


@dataclass(frozen=True)
class Estimates:
    """The two that guidance joins."""

    cond: Denoiser
    uncond: Denoiser
    both: Denoiser | None
    """Both in one call of 2B rows, [unconditional, conditional]; None where they do not fit into one."""
    steady: bool = False
    """Ask both at a scale of 1 too, so that who looks inside sees the same rows in every call."""


def led(of: Estimates, request: "Request", prediction: Prediction) -> Denoiser:
    """The Denoiser that the options ask for; where the scale is 1 it is one call of the conditional one.

    Args:
        of: what is joined.
        request: its options, scale and levels.
        prediction: of the network.
    """
    scale = scale_of(request)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        now = scale(sigma)
        if now == 1.0 and not of.steady:
            return of.cond(x, sigma)
        rule = rule_of(request.guidance_options if now != 1.0 else {}, now, prediction)
        join = joined(of.cond, of.uncond, rule) if of.both is None else joined_in_one(of.both, rule)
        return join(x, sigma)

    return denoise


def coloured(denoise: Denoiser, request: "Request", decode: Decode) -> Denoiser:
    """The Denoiser led to the colour that the options ask for; itself where they ask for none."""
    found = request.guidance_options
    if "colour" not in found:
        return denoise
    scale, low = found.get("colour_scale", COLOUR_SCALE), found.get("colour_low", 0.0)
    return loss_guidance(colour_loss(*found["colour"]), decode, scale=scale, low=low)(denoise)
