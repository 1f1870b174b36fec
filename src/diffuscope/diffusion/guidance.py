"""Classifier-free guidance: Ho & Salimans 2022, as a function of Denoisers."""

import math

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import Denoiser


def guided(cond: Denoiser, uncond: Denoiser, scale: float) -> Denoiser:
    """``uncond + scale * (cond - uncond)``: Ho & Salimans 2022, equation 6 with w = scale - 1, two calls a step.

    A scale of 1 is no guidance: ``cond`` itself, one call. 0 ignores the text.

    Raises:
        InputError: ``scale`` is not finite.
    """
    _check(scale)
    if scale == 1.0:
        return cond
    return lambda x, sigma: torch.lerp(uncond(x, sigma), cond(x, sigma), scale)


def guided_in_one(both: Denoiser, scale: float) -> Denoiser:
    """The same as ``guided``, in one call of a doubled batch.

    ``both`` takes and returns 2B rows, [unconditional, conditional]. At a scale of 1 half of them are computed in
    vain: prefer a plain conditional Denoiser there.

    Raises:
        InputError: ``scale`` is not finite.
    """
    _check(scale)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        uncond, cond = both(torch.cat((x, x)), sigma).chunk(2)
        return torch.lerp(uncond, cond, scale)

    return denoise


def _check(scale: float) -> None:
    if not math.isfinite(scale):
        raise InputError(f"guidance scale {scale} is not a finite number: 1 is no guidance, 5 to 9 is usual")
