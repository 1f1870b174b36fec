"""DPM-Solver-2 with a midpoint in log sigma, as k-diffusion has it: plain and ancestral."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.ancestral import split
from diffuscope.diffusion.samplers.checks import check_eta, check_noise
from diffuscope.diffusion.samplers.churn import Churn
from diffuscope.diffusion.samplers.euler import PURE_NOISE
from diffuscope.types import Denoiser, Noise, Step


def kdpm2(
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
    """Second-order solver: the slope at the geometric mean of two levels carries the whole step.

    After DPM-Solver-2 (Lu et al. 2022, Algorithm 1) and Karras et al. 2022, Algorithm 2. Steps to level 0
    and from pure noise, if any, are Euler's.

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
    return _kdpm2(denoise, x, sigmas, noise, churn)


def kdpm2_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """``kdpm2`` to below the next level, then fresh noise up to it, as in ``euler_ancestral``.

    Args:
        denoise: estimates clean latents; called twice a step, and once in one of Euler's.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step to a level above 0. Needed unless ``eta`` is 0.
        eta: how much noise is fresh. 0 is ``kdpm2``.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, or ``eta`` is negative or not finite. At the call, before any step.
    """
    check_eta(eta)
    check_noise(noise, eta, "eta")
    return _ancestral(denoise, x, sigmas, noise, eta)


def _kdpm2(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, churn: Churn) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, raised = churn.apply(x, sigma, len(sigmas) - 1, noise)
        x_next, x0 = _midpoint(denoise, x, raised, sigma_next)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, eta: float
) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        x_next, x0 = _midpoint(denoise, x, sigma, sigma_down)
        if noise is not None and sigma_up > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_up
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _midpoint(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
    """The latents at ``sigma_next``, and the clean estimate at ``sigma``."""
    x0 = denoise(x, sigma)
    if sigma_next == 0 or sigma >= PURE_NOISE:
        return x0 + (x - x0) * (sigma_next / sigma), x0
    middle = math.sqrt(sigma * sigma_next)
    x_middle = x0 + (x - x0) * (middle / sigma)
    slope = (x_middle - denoise(x_middle, middle)) / middle
    return x + slope * (sigma_next - sigma), x0
