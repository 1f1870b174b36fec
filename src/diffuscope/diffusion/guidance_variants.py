"""Variants of classifier-free guidance: other ways to join a conditional and an unconditional Denoiser.

A ``Rule`` joins two estimates; ``joined`` makes a Denoiser of it. In a Pipeline, run the conditional Denoiser alone
(``guidance_scale=1``) and give ``guidance=lambda cond: joined(cond, uncond, rule)``.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from diffuscope.config import Prediction
from diffuscope.diffusion.guidance import guided
from diffuscope.diffusion.prediction import training_target, x0_from
from diffuscope.errors import InputError
from diffuscope.types import Denoiser

Rule = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(uncond x0 [B,C,H,W], cond x0 [B,C,H,W], x [B,C,H,W], sigma) -> x0 [B,C,H,W]."""

Scale = Callable[[float], float]
"""Guidance scale at a noise level sigma."""

Norm = Literal["whole", "update", "both"]


def joined(cond: Denoiser, uncond: Denoiser, rule: Rule) -> Denoiser:
    """A Denoiser that asks both, the unconditional one first, and joins their estimates by ``rule``."""
    return lambda x, sigma: rule(uncond(x, sigma), cond(x, sigma), x, sigma)


def joined_in_one(both: Denoiser, rule: Rule) -> Denoiser:
    """The same as ``joined``, in one call of a doubled batch: ``both`` takes 2B rows, [unconditional, conditional]."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        uncond, cond = both(torch.cat((x, x)), sigma).chunk(2)
        return rule(uncond, cond, x, sigma)

    return denoise


def each_by(rules: Sequence[Rule]) -> Rule:
    """A Rule that joins image k by rule k: as many ways in one batch, such as to compare them from one noise.

    Raises:
        InputError: when called, with another number of images than rules.
    """

    def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
        if len(x) != len(rules):
            raise InputError(f"{len(rules)} rules for {len(x)} images; give one rule for each image")
        rows = zip(rules, uncond.split(1), cond.split(1), x.split(1), strict=True)
        return torch.cat([one(u, t, own, sigma) for one, u, t, own in rows])

    return rule


def norm_rescale(scale: float, kind: Norm, prediction: Prediction = "epsilon") -> Rule:
    """Guidance whose prediction keeps the length of the unconditional one (fast.ai's course, lesson 11).

    With u and t the predictions without and with text, each image by itself:
    "whole" is ``g ||u|| / ||g||`` for ``g = u + scale (t - u)``: long predictions are shortened;
    "update" is ``u + scale (t - u) ||u|| / ||t - u||``: the update has ``scale`` times the length of u, so a scale
    of 0.15 to 0.2 acts as 7.5 does otherwise;
    "both" shortens the result of "update".

    Args:
        scale: of the guidance.
        kind: which of the three.
        prediction: of what the length is meant. The course's network predicts noise; for one that predicts v take
            that: at the first level of zero terminal SNR the noise says nothing of the picture.

    Raises:
        InputError: ``scale`` is not finite, or an unknown kind.
    """
    _finite(scale)
    if kind not in get_args(Norm):
        raise InputError(f"norm rescaling {kind!r} is unknown; give one of {', '.join(get_args(Norm))}")

    def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
        u, t = (training_target(prediction, x0, (x - x0) / sigma, sigma) for x0 in (uncond, cond))
        update = t - u
        if kind != "whole":
            update = update * (_length(u) / _length(update).clamp_min(1e-12))
        found = u + scale * update
        if kind != "update":
            found = found * (_length(u) / _length(found).clamp_min(1e-12))
        return x0_from(prediction, found, x, sigma)

    return rule


def rescaled(scale: float, phi: float = 0.7, prediction: Prediction = "epsilon") -> Rule:
    """Guidance whose prediction keeps the deviation of the conditional one: Lin et al. 2024, equations 14 to 16.

    Args:
        scale: of the guidance.
        phi: 0 is plain guidance, 1 keeps the deviation wholly; the paper takes 0.7.
        prediction: of what the deviation is meant; the network's own kind, as the paper has it.

    Raises:
        InputError: ``scale`` is not finite, or ``phi`` is outside [0, 1].
    """
    _finite(scale)
    if not 0 <= phi <= 1:
        raise InputError(f"phi {phi}, the share of rescaling, is outside [0, 1]: 0 is plain guidance, 0.7 is usual")

    def rule(uncond: Tensor, cond: Tensor, x: Tensor, sigma: float) -> Tensor:
        guided_x0 = torch.lerp(uncond, cond, scale)
        found = training_target(prediction, guided_x0, (x - guided_x0) / sigma, sigma)
        told = training_target(prediction, cond, (x - cond) / sigma, sigma)
        factor = _deviation(told) / _deviation(found).clamp_min(1e-12)
        return x0_from(prediction, found * (phi * factor + 1 - phi), x, sigma)

    return rule


def guided_by(cond: Denoiser, uncond: Denoiser, scale: Scale) -> Denoiser:
    """Classifier-free guidance whose scale depends on the noise level; where it is 1, one call.

    Raises:
        InputError: when called, at a level where the scale is not finite.
    """
    return lambda x, sigma: guided(cond, uncond, scale(sigma))(x, sigma)


def interval(scale: float, low: float, high: float) -> Scale:
    """``scale`` at noise levels in (low, high], 1 elsewhere: Kynkäänniemi et al. 2024.

    Raises:
        InputError: ``scale`` is not finite, or the levels are not rising from at least 0.
    """
    _finite(scale)
    if not 0 <= low < high:
        raise InputError(f"the interval goes from {low} to {high}; give noise levels, the lower one first")
    return lambda sigma: scale if low < sigma <= high else 1.0


def falling(start: float, end: float, sigmas: Sequence[float], shape: Literal["linear", "cosine"] = "linear") -> Scale:
    """A scale that goes from ``start`` at the first of ``sigmas`` to ``end`` at the last that the network sees.

    It is even in the steps, and between two levels even in sigma; beyond the ends it stays. The lesson's is 7.5 to 0.

    Args:
        start: scale of the first step.
        end: scale of the last step.
        sigmas: the run's noise levels, falling; an ending 0 is no step's.
        shape: "cosine" starts and ends slowly.

    Raises:
        InputError: a scale is not finite, no level above 0, or an unknown shape.
    """
    _finite(start)
    _finite(end)
    levels = [sigma for sigma in sigmas if sigma > 0]
    if not levels or shape not in ("linear", "cosine"):
        raise InputError(f"{len(levels)} noise levels above 0 and shape {shape!r}; give levels, and linear or cosine")

    def place(sigma: float) -> float:
        if sigma >= levels[0]:
            return 0.0
        for i, (above, below) in enumerate(pairwise(levels)):
            if sigma >= below:
                return (i + (above - sigma) / (above - below)) / (len(levels) - 1)
        return 1.0

    def scale(sigma: float) -> float:
        share = place(sigma) if shape == "linear" else (1 - math.cos(math.pi * place(sigma))) / 2
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
        raise InputError("no part to compose: give Denoisers with weights")
    for _, weight in parts:
        _finite(weight)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        base = uncond(x, sigma)
        return base + sum((weight * (part(x, sigma) - base) for part, weight in parts), torch.zeros_like(base))

    return denoise


def _finite(scale: float) -> None:
    if not math.isfinite(scale):
        raise InputError(f"guidance scale {scale} is not a finite number: 1 is no guidance, 5 to 9 is usual")


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)[:, None, None, None]


def _deviation(x: Tensor) -> Tensor:
    return x.flatten(1).std(dim=1)[:, None, None, None]
