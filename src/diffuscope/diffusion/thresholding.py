"""Thresholding: clip the clean estimate to the range of the data, for networks that work on pixels."""

import torch
from torch import Tensor

from diffuscope.config import LARGEST
from diffuscope.errors import InputError
from diffuscope.types import Denoiser


def thresholded(
    denoise: Denoiser, *, limit: float | None = None, ratio: float | None = None, max_value: float | None = None
) -> Denoiser:
    """The same estimates, clipped statically or dynamically; without any option, ``denoise`` itself.

    Latents have no fixed range, so this is for pixels.

    Args:
        denoise: estimates clean images.
        limit: static: clip to [-limit, limit], as the code of Ho et al. 2020 does with 1. Above 0.
        ratio: dynamic: clip each image to this quantile of its absolute values, and divide by it (Saharia et al. 2022,
            section 2.3). 0 to 1; 0.995 if only ``max_value`` is given.
        max_value: dynamic: the quantile counts from 1 to ``max_value``, so estimates within [-1, 1] stay as they are.
            At least 1, finite; 1 if only ``ratio`` is given.

    Raises:
        InputError: an option is out of its range, or options of both kinds are given.
    """
    if limit is None and ratio is None and max_value is None:
        return denoise
    if limit is not None:
        if ratio is not None or max_value is not None:
            raise InputError("limit", limit, "None with ratio or max_value", "Thresholding is either static or dynamic")
        if not 0 < limit <= LARGEST:
            raise InputError("limit", limit, f"a number above 0 and at most {LARGEST:,}", "1 is the range of pixels")
        return lambda x, sigma: denoise(x, sigma).clamp(-limit, limit)
    ratio, max_value = 0.995 if ratio is None else ratio, 1.0 if max_value is None else max_value
    if not 0 <= ratio <= 1:
        raise InputError("ratio", ratio, "a number from 0 to 1", "0.995 is usual")
    if not 1 <= max_value <= LARGEST:
        raise InputError("max_value", max_value, f"a number from 1 to {LARGEST:,}")

    def clipped(x: Tensor, sigma: float) -> Tensor:
        x0 = denoise(x, sigma)
        magnitudes = x0.abs().flatten(1)
        magnitudes = magnitudes if magnitudes.dtype == torch.float64 else magnitudes.float()
        edge = magnitudes.quantile(ratio, dim=1).clamp(1, max_value).to(x0.dtype)
        edge = edge.view(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-edge, edge) / edge

    return clipped
