"""Restart: back to a higher noise level and down again, which removes the errors made above it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import Above0, checked
from diffuscope.diffusion.samplers.heun import heun_step
from diffuscope.errors import InputError
from diffuscope.types import Denoiser, Noise, Step


def _check_low(options: Mapping[str, Any]) -> None:
    if not options["low"] < options["high"]:
        raise InputError("low", options["low"], f"a noise level below high, {options['high']:g}")


@checked(noise="times", also=_check_low)
def restart(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    times: Annotated[int, Interval(ge=0, le=1000)] = 1,
    low: Above0 = 0.1,
    high: Above0 = 2.0,
) -> Iterator[Step]:
    """Heun's method with restarts, from a low level back to a high one by fresh noise: Xu et al. 2023, Algorithm 1.

    The interval is between the ``sigmas`` nearest to ``low`` and ``high``, and is repeated over the same levels, as
    part of the step that reaches the low one. Calls as in ``heun``, in each repeated step too.

    Args:
        times: number of restarts; 0 is ``heun``, without noise.
        low: noise level at which a restart begins, about.
        high: noise level to which a restart goes back, about.
    """
    top, bottom = _interval(sigmas, low, high)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x_next = heun_step(denoise, x, x0, sigma, sigma_next)
        if noise is not None and i + 1 == bottom:
            added = math.sqrt(sigmas[top] ** 2 - sigmas[bottom] ** 2)
            for _ in range(times):
                x_next = x_next + noise(x, sigmas[bottom], sigmas[top]) * added
                for upper, lower in pairwise(sigmas[top : bottom + 1]):
                    x0 = denoise(x_next, upper)
                    x_next = heun_step(denoise, x_next, x0, upper, lower)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _interval(sigmas: Sequence[float], low: float, high: float) -> tuple[int, int]:
    """The indices of the levels nearest to ``high`` and ``low``; equal if there is nothing between them."""
    bottom = min((i for i in range(1, len(sigmas)) if sigmas[i] > 0), key=lambda i: abs(sigmas[i] - low), default=0)
    return min(range(bottom), key=lambda i: abs(sigmas[i] - high), default=0), bottom
