"""Solvers that replace part of the noise at each step. They are one solver under three names.

DDIM (Song et al. 2021) with eta, written in ``x = x0 + sigma * noise``, is the ancestral Euler method with the same
eta. With eta 1 it is the posterior sampling of DDPM (Ho et al. 2020) with the small variance, and with eta 0 Euler's
method. The names differ in eta, in the noise levels their references pick and in how these scale the latents; the
last two are ``Levels``.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_eta, check_noise
from diffuscope.types import Denoiser, Noise, Step


def euler_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """Euler's step below the next level, then fresh noise up to it: Song et al. 2021, equations 12 and 16.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step to a level above 0. Needed unless ``eta`` is 0.
        eta: how much noise is fresh. 0 is Euler's method, 1 the posterior variance of DDPM.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, or ``eta`` is negative or not finite. At the call, before any step.
    """
    check_eta(eta)
    check_noise(noise, eta, "eta")
    return _ancestral(denoise, x, sigmas, noise, eta)


def ddim(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 0.0
) -> Iterator[Step]:
    """DDIM: Song et al. 2021, equation 12. ``euler_ancestral`` whose ``eta`` is 0 unless given."""
    return euler_ancestral(denoise, x, sigmas, noise=noise, eta=eta)


def ddpm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:
    """DDPM with the small ("posterior") variance: Ho et al. 2020, equation 7. ``euler_ancestral`` at eta 1."""
    return euler_ancestral(denoise, x, sigmas, noise=noise, eta=1.0)


def split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """The level to step down to and the fresh noise from there: their squares add up to that of ``sigma_next``."""
    sigma_up = min(sigma_next, eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2))
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up


def _ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, eta: float
) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        x0 = denoise(x, sigma)
        x_next = x0 + (x - x0) * (sigma_down / sigma)
        if noise is not None and sigma_up > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_up
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x
