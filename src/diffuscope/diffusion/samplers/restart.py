"""Restart: forth and back over a stretch of noise levels, which forgets the errors made above it."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_noise
from diffuscope.diffusion.samplers.heun import heun_step
from diffuscope.errors import InputError
from diffuscope.types import Denoiser, Noise, Step


def restart(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    times: int = 1,
    low: float = 0.1,
    high: float = 2.0,
) -> Iterator[Step]:
    """Heun's method that goes back from a low level to a high one by fresh noise: Xu et al. 2023, Algorithm 1.

    The stretch lies between those of the ``sigmas`` that are nearest to ``low`` and ``high``, and is walked again
    through the same levels. All of it belongs to the step that reaches the low level.

    Args:
        denoise: estimates clean latents; called as by ``heun``, in every repeated step too.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per restart. Needed unless ``times`` is 0.
        times: number of restarts; 0 is ``heun``.
        low: noise level from which a restart begins, about.
        high: noise level to which a restart leads back, about.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, ``times`` is negative, or not 0 < low < high. At the call, before any step.
    """
    if times < 0 or not 0 < low < high:
        raise InputError(f"{times} restarts from {low} to {high}: give at least 0, and 0 < low < high")
    check_noise(noise, times, "times")
    return _restart(denoise, x, sigmas, noise if times else None, (times, low, high))


def _stretch(sigmas: Sequence[float], low: float, high: float) -> tuple[int, int]:
    """The indices of the levels nearest to ``high`` and ``low``; equal where there is nothing between them."""
    bottom = min((i for i in range(1, len(sigmas)) if sigmas[i] > 0), key=lambda i: abs(sigmas[i] - low), default=0)
    return min(range(bottom), key=lambda i: abs(sigmas[i] - high), default=0), bottom


def _restart(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, stretch: tuple[int, float, float]
) -> Iterator[Step]:
    times, low, high = stretch
    top, bottom = _stretch(sigmas, low, high)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x_next, x0 = heun_step(denoise, x, sigma, sigma_next)
        if noise is not None and i + 1 == bottom:
            for _ in range(times):
                x_next = x_next + noise(x, sigmas[bottom], sigmas[top]) * math.sqrt(
                    sigmas[top] ** 2 - sigmas[bottom] ** 2
                )
                for upper, lower in pairwise(sigmas[top : bottom + 1]):
                    x_next, x0 = heun_step(denoise, x_next, upper, lower)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x
