"""Other ways to guide, as plain values: checked with the call, written into its receipt, and replayed.

What the functions of ``diffusion.guidance_variants`` and ``diffusion.loss_guidance`` do, by name and number.
"""

import math
from collections.abc import Mapping, Sequence
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
from diffuscope.diffusion.loss_guidance import HIGHEST, Decode, Loss, colour_loss, loss_guidance
from diffuscope.errors import InputError
from diffuscope.prompt.lora_tags import parse_lora_tags
from diffuscope.types import Denoiser

if TYPE_CHECKING:
    from diffuscope.pipeline.request import Request

NUMBERS = {
    "rescale": 1,
    "end": 1,
    "interval": 2,
    "colour": 3,
    "colour_scale": 1,
    "colour_low": 1,
    "similarity_scale": 1,
    "similarity_low": 1,
}
"""Option -> how many numbers it takes."""

WORDS: dict[str, tuple[str, ...]] = {"norm": get_args(Norm), "shape": ("linear", "cosine")}
"""Option -> the words it may be."""

TEXT, SWITCH = "similarity", "exact"
"""The option that is a text, and the one that is True or False."""

LOSSES = ("colour", "similarity")
"""What a picture may be led to by a loss, in the order in which they act; each has a ``_scale`` and a ``_low``."""

JOINING = {"rescale", "norm", "end", "shape", "interval"}
"""Those that say how the two estimates are joined, and so need both."""

NEEDED = {
    "shape": ("end",),
    **{f"{loss}_{what}": (loss,) for loss in LOSSES for what in ("scale", "low")},
    SWITCH: LOSSES,
}
"""Option -> those without any of which it says nothing."""

SCALES = {"colour": 10.0, "similarity": 1.0}
"""Of sigma^2 times the gradient of the class's losses (weights 40 and 8): a picture is led and stays one."""

EXACTLY = 3.0
"""By how much more exact gradients are multiplied: the network answers a change of its input with a smaller one."""

Options = Mapping[str, Any]
"""JSON values, each a number, a text, True, or a list of numbers."""


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
    found = {name: each for name, each in found.items() if each is not False}
    for name in found:
        if name in NEEDED and found.keys().isdisjoint(NEEDED[name]):
            raise InputError(
                f"guidance option {name} is given without {' or '.join(NEEDED[name])}; give both, or neither"
            )
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
    if name == TEXT:
        return _text(value)
    if name == SWITCH:
        if not isinstance(value, bool):
            raise InputError(f"guidance option {name} is {value!r}; give True or False")
        return value
    if name not in NUMBERS:
        raise InputError(
            f"there is no guidance option {name!r}; there are {', '.join((*NUMBERS, *WORDS, TEXT, SWITCH))}"
        )
    count = NUMBERS[str(name)]
    values = [value] if count == 1 else value
    if (
        not isinstance(values, list | tuple)
        or len(values) != count
        or not all(isinstance(each, Real) and not isinstance(each, bool) and math.isfinite(each) for each in values)
    ):
        raise InputError(f"guidance option {name} is {value!r}; give {count} finite number{'s' * (count > 1)}")
    numbers = [float(each) for each in values]
    if name in NEEDED and numbers[0] < 0:
        raise InputError(f"guidance option {name} is {value!r}; give 0 or more")
    return numbers[0] if count == 1 else numbers


def _text(value: object) -> str:
    """What the pictures shall be similar to."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"guidance option {TEXT} is {value!r}; give a text, such as 'a blue car'")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"guidance option {TEXT} is {value!r}, with half of a character; give valid Unicode") from None
    if parse_lora_tags(value).loras:
        raise InputError(f"guidance option {TEXT} names a LoRA, which the judge does not have; name it in the prompt")
    return value


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


def check_levels(found: Options, sigmas: Sequence[float]) -> None:
    """That each loss has a step to act in.

    Raises:
        InputError: one has none.
    """
    for name in LOSSES:
        low = found.get(f"{name}_low", 0.0)
        if name in found and not any(low < sigma <= HIGHEST for sigma in sigmas[:-1]):
            levels = ", ".join(f"{sigma:.3g}" for sigma in sigmas[:-1][:8])
            raise InputError(
                f"guidance option {name} acts at noise levels above {low:g} up to {HIGHEST:g}, and no step of this run "
                f"begins at one; it visits {levels}: give more steps" + (f", or a lower {name}_low" if low else "")
            )


def losses(denoise: Denoiser, cond: Denoiser, request: "Request", decode: Decode, similar: Loss | None) -> Denoiser:
    """The Denoiser led by the losses that the options ask for, one after the other; itself where they ask for none.

    Args:
        denoise: what the run solves, guided.
        cond: the conditional estimate in it, through which exact gradients go.
        request: its options.
        decode: latents to pictures in [0,1].
        similar: the loss of similarity, where it is asked for.
    """
    found = request.guidance_options
    exact = bool(found.get(SWITCH))
    for name in LOSSES:
        if name in found:
            loss = similar if name == TEXT else colour_loss(*found[name])
            assert loss is not None  # begin made it, as it is asked for
            scale = found.get(f"{name}_scale", SCALES[name] * (EXACTLY if exact else 1.0))
            low = found.get(f"{name}_low", 0.0)
            denoise = loss_guidance(loss, decode, scale=scale, exact=exact and cond, low=low)(denoise)
    return denoise
