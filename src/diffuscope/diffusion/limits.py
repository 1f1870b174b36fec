"""Keeping clean estimates within the range of the data: Denoiser -> Denoiser, for networks that work on pixels."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import Denoiser

OPTIONS = ("limit", "ratio", "most")
"""The options of ``clipped``, which is the first, and of ``thresholded``."""


def limited(denoise: Denoiser, options: Mapping[str, float]) -> Denoiser:
    """``clipped`` or ``thresholded`` with these ``OPTIONS``, told by their names; without any ``denoise`` itself.

    Raises:
        InputError: an option that there is not, options of both, or an impossible value.
    """
    if not options:
        return denoise
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise InputError(f"thresholding has no option {unknown!r}; give limit, or ratio and most")
    if "limit" in options and len(options) > 1:
        raise InputError("thresholding is either by limit (static) or by ratio and most (dynamic); give one kind")
    return (clipped if "limit" in options else thresholded)(denoise, **options)


def clipped(denoise: Denoiser, limit: float = 1.0) -> Denoiser:
    """The same estimates, cut to [-limit, limit]: Ho et al. 2020, as their code has it.

    Raises:
        InputError: ``limit`` is not above 0.
    """
    if not limit > 0:
        raise InputError(f"limit {limit} is not above 0: 1 is the range of pixels")
    return lambda x, sigma: denoise(x, sigma).clamp(-limit, limit)


def thresholded(denoise: Denoiser, ratio: float = 0.995, most: float = 1.0) -> Denoiser:
    """The same estimates, cut at a quantile of each image and divided by it: Saharia et al. 2022, section 2.3.

    The quantile ``ratio`` of an image's absolute values counts from 1 to ``most``: estimates within [-1, 1] stay as
    they are. Latents have no such range, so this is for pixels.

    Raises:
        InputError: ``ratio`` is outside 0 to 1, or ``most`` is below 1.
    """
    if not 0 <= ratio <= 1:
        raise InputError(f"ratio {ratio} is outside 0 to 1: 0.995 is usual")
    if not (1 <= most < math.inf):
        raise InputError(f"most {most} is not a finite number of at least 1")

    def kept(x: Tensor, sigma: float) -> Tensor:
        x0 = denoise(x, sigma)
        magnitudes = x0.abs().flatten(1)
        magnitudes = magnitudes if magnitudes.dtype == torch.float64 else magnitudes.float()
        edge = magnitudes.quantile(ratio, dim=1).clamp(1, most).to(x0.dtype)
        edge = edge.view(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-edge, edge) / edge

    return kept
