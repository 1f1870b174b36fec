"""Heun's method on the probability-flow equation."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.churn import Churn
from diffuscope.diffusion.samplers.euler import PURE_NOISE
from diffuscope.types import Denoiser, Noise, Step


def heun(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Second-order solver: Karras et al. 2022, Algorithm 2. Steps to level 0 and from pure noise, if any, are Euler's.

    Args:
        denoise: estimates clean latents; called twice a step, and once in one of Euler's.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step that churns. Not used where ``s_churn`` is 0.
        s_churn: noise added over the whole run; 0 is the deterministic method.
        s_tmin: lowest noise level that churns.
        s_tmax: highest noise level that churns.
        s_noise: factor of the added noise.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise`` to churn with, or a negative value. At the call, before any step.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    churn.check(noise)
    return _heun(denoise, x, sigmas, noise, churn)


def _heun(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, churn: Churn) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, raised = churn.apply(x, sigma, len(sigmas) - 1, noise)
        x_next, x0 = heun_step(denoise, x, raised, sigma_next)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def heun_step(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
    """One of Heun's steps: the latents at ``sigma_next``, and the clean estimate at ``sigma``."""
    x0 = denoise(x, sigma)
    x_next = x0 + (x - x0) * (sigma_next / sigma)
    if sigma_next > 0 and sigma < PURE_NOISE:
        slope = (x - x0) / sigma
        slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
        x_next = x_next + (slope_next - slope) * ((sigma_next - sigma) / 2)
    return x_next, x0
