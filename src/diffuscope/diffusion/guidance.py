"""Classifier-free guidance (Ho & Salimans 2022) and its variants, as functions of Denoisers.

A ``Rule`` combines the conditional and the unconditional estimate; ``guided`` makes a Denoiser of two Denoisers and a
rule, ``guided_in_one`` the same in one call of a doubled batch. In a Pipeline, run the conditional Denoiser alone
(``guidance_scale=1``) and pass ``guidance=lambda cond: guided(cond, uncond, rule)``.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from diffuscope.config import LARGEST, Prediction
from diffuscope.diffusion.prediction import training_target, x0_from
from diffuscope.errors import InputError
from diffuscope.types import Denoiser

Rule = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(unconditional x0 [B,C,H,W], conditional x0 [B,C,H,W], x [B,C,H,W], sigma) -> x0 [B,C,H,W]."""

OnGuidance = Callable[[Tensor, Tensor, Tensor, float], None]
"""Sees what a Rule combines."""

Scale = Callable[[float], float]
"""Guidance scale at a noise level sigma."""

Norm = Literal["whole", "update", "both"]


def guided(cond: Denoiser, uncond: Denoiser, rule: float | Rule) -> Denoiser:
    """Two calls a step, the unconditional one first, combined by a rule, or by a scale.

    A scale w is ``uncond + w * (cond - uncond)``, Ho & Salimans 2022, equation 6 with their w + 1. A scale of 1 is
    ``cond`` itself, one call; 0 ignores the text.

    Raises:
        InputError: the scale is not finite.
    """
    if rule == 1.0:
        return cond
    combine = _rule(rule)
    return lambda x, sigma: combine(uncond(x, sigma), cond(x, sigma), x, sigma)


def guided_in_one(both: Denoiser, rule: float | Rule) -> Denoiser:
    """The same as ``guided``, in one call of a doubled batch.

    ``both`` takes and returns 2B rows, [unconditional, conditional]. At a scale of 1 half of them are wasted: use a
    conditional Denoiser there.

    Raises:
        InputError: the scale is not finite.
    """
    combine = _rule(rule)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        uncond, cond = both(torch.cat((x, x)), sigma).chunk(2)
        return combine(uncond, cond, x, sigma)

    return denoise


def image_guided(three: Denoiser, rule: float | Rule, image_scale: float) -> Denoiser:
    """Guidance by a text and by an image that is edited: Brooks et al. 2023, equation 3.

    ``rule`` combines the estimates with the image alone and with both; then ``image_scale - 1`` times what the image
    changes is added.

    Args:
        three: takes and returns 3B rows, [without both, with the image, with image and text].
        rule: of the text, or its scale.
        image_scale: of the image; 1 adds nothing.

    Raises:
        InputError: a scale is not finite.
    """
    combine = _rule(rule)
    _check_scale("image_scale", image_scale)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        bare, image, text = three(torch.cat((x, x, x)), sigma).chunk(3)
        return combine(image, text, x, sigma) + (image_scale - 1) * (image - bare)

    return denoise


def in_turn(*parts: Denoiser) -> Denoiser:
    """Denoisers of equal shares of the rows of a batch, called one after the other."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        rows = zip(parts, x.chunk(len(parts)), strict=True)
        return torch.cat([part(own, sigma) for part, own in rows])

    return denoise


def guided_by(cond: Denoiser, uncond: Denoiser, scale: Scale) -> Denoiser:
    """Classifier-free guidance whose scale depends on the noise level; where it is 1, one call.

    Raises:
        InputError: when called, at a level where the scale is not finite.
    """
    return lambda x, sigma: guided(cond, uncond, scale(sigma))(x, sigma)


def cfg(scale: float) -> Rule:
    """Plain classifier-free guidance as a Rule.

    Raises:
        InputError: ``scale`` is not finite.
    """
    _check_scale("scale", scale)
    return lambda uncond, cond, x, sigma: torch.lerp(uncond, cond, scale)  # noqa: ARG005


def _rule(rule: float | Rule) -> Rule:
    return rule if callable(rule) else cfg(rule)


def each_by(rules: Sequence[Rule]) -> Rule:
    """Image k is combined by rule k: to compare rules in one batch, from one noise.

    Raises:
        InputError: when called, with another number of images than rules.
    """

    def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
        if len(x) != len(rules):
            raise InputError("rules", rules, f"one rule per image ({len(x)})")
        rows = zip(rules, uncond.split(1), cond.split(1), x.split(1), strict=True)
        return torch.cat([one(u, t, own, sigma) for one, u, t, own in rows])

    return rule


def norm_rescale(scale: float, kind: Norm, prediction: Prediction = "epsilon") -> Rule:
    """Guidance that keeps the norm of the unconditional prediction (fast.ai's course, lesson 11).

    With u and t the predictions without and with text, for each image:
    "whole" is ``g ||u|| / ||g||`` for ``g = u + scale (t - u)``;
    "update" is ``u + scale (t - u) ||u|| / ||t - u||``: the update has ``scale`` times the norm of u, so a scale of
    0.15 to 0.2 acts as 7.5 does otherwise;
    "both" rescales the result of "update" to the norm of u.

    Args:
        scale: guidance scale.
        kind: which of the three.
        prediction: the space in which norms are taken. The course's network predicts noise; use "v" for one that
            predicts v, because at zero terminal SNR the noise carries no information on the image.

    Raises:
        InputError: ``scale`` is not finite, or an unknown kind.
    """
    _check_scale("scale", scale)
    if kind not in get_args(Norm):
        raise InputError("kind", kind, f"one of {', '.join(get_args(Norm))}")

    def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
        u, t = (training_target(prediction, x0, (x - x0) / sigma, sigma) for x0 in (uncond, cond))
        update = t - u
        if kind != "whole":
            update = update * (_norm(u) / _norm(update).clamp_min(1e-12))
        combined = u + scale * update
        if kind != "update":
            combined = combined * (_norm(u) / _norm(combined).clamp_min(1e-12))
        return x0_from(prediction, combined, x, sigma)

    return rule


def rescaled(scale: float, phi: float = 0.7, prediction: Prediction = "epsilon") -> Rule:
    """Guidance that keeps the standard deviation of the conditional prediction: Lin et al. 2024, equations 14 to 16.

    Args:
        scale: guidance scale.
        phi: 0 is plain guidance, 1 keeps all of the deviation; the paper uses 0.7.
        prediction: the space in which deviations are taken; in the paper that of the network.

    Raises:
        InputError: ``scale`` is not finite, or ``phi`` is outside [0, 1].
    """
    _check_scale("scale", scale)
    if not 0 <= phi <= 1:
        raise InputError("phi", phi, "a number from 0, plain guidance, to 1; 0.7 is usual")

    def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
        guided_x0 = torch.lerp(uncond, cond, scale)
        guided_target = training_target(prediction, guided_x0, (x - guided_x0) / sigma, sigma)
        cond_target = training_target(prediction, cond, (x - cond) / sigma, sigma)
        factor = _std(cond_target) / _std(guided_target).clamp_min(1e-12)
        return x0_from(prediction, guided_target * (phi * factor + 1 - phi), x, sigma)

    return rule


def interval(scale: float, low: float, high: float) -> Scale:
    """``scale`` at noise levels in (low, high], 1 elsewhere: Kynkäänniemi et al. 2024.

    Raises:
        InputError: ``scale`` is not finite, or the levels are not rising from at least 0.
    """
    _check_scale("scale", scale)
    if not 0 <= low < high:
        raise InputError("low", low, f"a noise level of at least 0 and below high, {high}")
    return lambda sigma: scale if low < sigma <= high else 1.0


def falling(start: float, end: float, sigmas: Sequence[float], shape: Literal["linear", "cosine"] = "linear") -> Scale:
    """A scale that falls from ``start`` at the first of ``sigmas`` to ``end`` at the last level above 0.

    Even in steps, and between two levels even in sigma; constant outside. The lesson's falls from 7.5 to 0.

    Args:
        start: scale of the first step.
        end: scale of the last step.
        sigmas: the run's noise levels, decreasing.
        shape: "cosine" starts and ends slowly.

    Raises:
        InputError: a scale is not finite, no level above 0, or an unknown shape.
    """
    _check_scale("start", start)
    _check_scale("end", end)
    levels = [sigma for sigma in sigmas if sigma > 0]
    if not levels:
        raise InputError("sigmas", sigmas, "at least one noise level above 0")
    if shape not in ("linear", "cosine"):
        raise InputError("shape", shape, "linear or cosine")

    def progress(sigma: float) -> float:
        if sigma >= levels[0]:
            return 0.0
        for i, (above, below) in enumerate(pairwise(levels)):
            if sigma >= below:
                return (i + (above - sigma) / (above - below)) / (len(levels) - 1)
        return 1.0

    def scale(sigma: float) -> float:
        share = progress(sigma) if shape == "linear" else (1 - math.cos(math.pi * progress(sigma))) / 2
        return start + share * (end - start)

    return scale


def composed(uncond: Denoiser, parts: Sequence[tuple[Denoiser, float]]) -> Denoiser:
    """``uncond + sum of w (part - uncond)``: Liu et al. 2022; a negative prompt has a weight below 0.

    Args:
        uncond: without a text.
        parts: Denoisers and their weights; one part is plain guidance by its weight.

    Raises:
        InputError: no part, or a weight that is not finite.
    """
    if not parts:
        raise InputError("parts", parts, "at least one Denoiser with its weight")
    for _, weight in parts:
        _check_scale("parts", weight)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        base = uncond(x, sigma)
        return base + sum((weight * (part(x, sigma) - base) for part, weight in parts), torch.zeros_like(base))

    return denoise


def _check_scale(argument: str, scale: float) -> None:
    if not abs(scale) <= LARGEST:  # nor where it is not a number
        want = f"a guidance scale from -{LARGEST:,} to {LARGEST:,}"
        raise InputError(argument, scale, want, "1 is no guidance, 5 to 9 is usual")


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)[:, None, None, None]


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(dim=1)[:, None, None, None]
