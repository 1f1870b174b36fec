"""A call's guidance options: checked against its noise levels, and turned into Denoisers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffuscope.config import Prediction
from diffuscope.diffusion import guidance
from diffuscope.diffusion.guidance import OnGuidance, Rule, Scale
from diffuscope.diffusion.loss_guidance import HIGHEST, Decode, Loss, colour_loss, loss_guidance
from diffuscope.errors import InputError
from diffuscope.prompt.lora_tags import parse_lora_tags
from diffuscope.request import GuidanceOptions, Request
from diffuscope.types import Denoiser

COMBINING = ("rescale", "norm", "end", "shape", "interval")  # how the two estimates are combined: these need both
SCALES = {"colour": 10.0, "similarity": 1.0}
"""Options that guide by a loss, in the order in which they are applied -> the default of their ``_scale``: a factor of
sigma^2 times the gradient, for losses with the course's weights, 40 and 8."""

EXACT_FACTOR = 3.0  # default scales with exact gradients are larger: the network damps a change of its input


@dataclass(frozen=True)
class CondUncond:
    """The estimates that guidance combines."""

    cond: Denoiser
    uncond: Denoiser  # without the text; in a model that edits an image, with the image
    rows: Denoiser | None  # all in one call of rows [bare, uncond, cond]; None where they differ in length
    bare: Denoiser | None = None  # of a model that edits an image: without text and image
    always_all: bool = False  # run all at a scale of 1 too, so that a tap gets the same rows in every call


def is_on(options: GuidanceOptions, scale: float) -> bool:
    """Whether the U-Net runs for the negative prompts too: not at 1, nor at 0, as turbo models are called elsewhere.

    0 is a scale like others for options that combine the two estimates.
    """
    return scale != 1.0 and (scale != 0.0 or any(getattr(options, name) is not None for name in COMBINING))


def check(options: GuidanceOptions, scale: float, sigmas: Sequence[float], *, guided: bool) -> None:
    """Refuse options that would have no effect in a run of these noise levels."""
    for name in COMBINING:
        if getattr(options, name) is not None and not guided:
            raise InputError("guidance_scale", scale, f"a scale other than 1, such as 5, with guidance_options.{name}")
    if options.similarity is not None and parse_lora_tags(options.similarity).loras:
        raise InputError("guidance_options.similarity", options.similarity, "no LoRA tag", "Name it in the prompt")
    for name in SCALES:
        value, low = getattr(options, name), getattr(options, f"{name}_low") or 0.0
        if value is not None and not any(low < sigma <= HIGHEST for sigma in sigmas[:-1]):
            levels = ", ".join(f"{sigma:.3g}" for sigma in sigmas[:-1][:8])
            want = f"a step that starts at a noise level above {low:g} and at most {HIGHEST:g}; this run has {levels}"
            hint = "Use more steps" + (f", or a lower {name}_low" if low else "")
            raise InputError(f"guidance_options.{name}", value, want, hint)


def checked(denoise: Denoiser) -> Denoiser:
    """The same estimates; an InputError where a caller's function returns other than its input's shape.

    A sampler would broadcast them unsaid.
    """

    def call(x: Tensor, sigma: float) -> Tensor:
        x0 = denoise(x, sigma)
        if not isinstance(x0, Tensor) or x0.shape != x.shape:
            raise InputError("guidance", x0, f"functions whose Denoiser returns estimates of shape {list(x.shape)}")
        return x0

    return call


def denoiser_of(
    estimates: CondUncond,
    request: Request,
    sigmas: Sequence[float],
    prediction: Prediction,
    see: OnGuidance | None = None,
) -> Denoiser:
    """The guided Denoiser; where all scales are 1 it is one call of the conditional one. ``see`` sees both."""
    options, scale = request.guidance_options, request.guidance_scale
    assert scale is not None
    image_scale = 1.0 if request.image_guidance_scale is None else request.image_guidance_scale
    scale_at = _scale(options, scale, sigmas)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        now = scale_at(sigma)
        if now == image_scale == 1.0 and not estimates.always_all:
            return estimates.cond(x, sigma)
        combine = guidance.cfg(now) if now == 1.0 else _rule(options, now, prediction)

        def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
            if see is not None:
                see(uncond, cond, x, sigma)
            return combine(uncond, cond, x, sigma)

        if estimates.bare is not None:
            three = estimates.rows or guidance.in_turn(estimates.bare, estimates.uncond, estimates.cond)
            return guidance.image_guided(three, rule, image_scale)(x, sigma)
        if estimates.rows is not None:
            return guidance.guided_in_one(estimates.rows, rule)(x, sigma)
        return guidance.guided(estimates.cond, estimates.uncond, rule)(x, sigma)

    return denoise


def loss_guided(
    denoise: Denoiser, cond: Denoiser, options: GuidanceOptions, decode: Decode, similarity: Loss | None
) -> Denoiser:
    """The Denoiser guided by the losses of the options, one after the other; exact gradients go through ``cond``."""
    colour = None if options.colour is None else colour_loss(*options.colour)
    for name, loss in (("colour", colour), ("similarity", similarity)):
        if loss is None:
            continue
        scale = getattr(options, f"{name}_scale")
        if scale is None:
            scale = SCALES[name] * (EXACT_FACTOR if options.exact else 1.0)
        low = getattr(options, f"{name}_low") or 0.0
        denoise = loss_guidance(loss, decode, scale=scale, exact=options.exact and cond, low=low)(denoise)
    return denoise


def _scale(options: GuidanceOptions, scale: float, sigmas: Sequence[float]) -> Scale:
    """The guidance scale at a noise level of this run."""
    inside: Scale = lambda _: scale  # noqa: E731
    if options.end is not None:
        inside = guidance.falling(scale, options.end, sigmas, options.shape or "linear")
    if options.interval is None:
        return inside
    gate = guidance.interval(2.0, *options.interval)
    return lambda sigma: inside(sigma) if gate(sigma) != 1.0 else 1.0


def _rule(options: GuidanceOptions, scale: float, prediction: Prediction) -> Rule:
    """How the two estimates are combined at one scale."""
    if options.norm is not None:
        return guidance.norm_rescale(scale, options.norm, prediction)
    if options.rescale is not None:
        return guidance.rescaled(scale, options.rescale, prediction)
    return guidance.cfg(scale)
