"""Samplers that replace part of the noise in each step: one method under three names.

DDIM (Song et al. 2021) with eta, in ``x = x0 + sigma * noise``, is the ancestral Euler method with the same eta. With
eta 1 it is the posterior sampling of DDPM (Ho et al. 2020) with the small variance, with eta 0 Euler's method. The
names differ in eta, and in the noise levels and latent scales of their references, which are in ``Levels``.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.contract import Eta, checked
from diffuscope.types import Denoiser, Noise, Step


@checked(noise="eta")
def euler_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: Eta = 1.0
) -> Iterator[Step]:
    """Euler step to below the next level, then fresh noise up to it: Song et al. 2021, equations 12 and 16."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = ancestral_split(sigma, sigma_next, eta)
        x0 = denoise(x, sigma)
        x_next = x0 + (x - x0) * (sigma_down / sigma)
        if noise is not None and sigma_up > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_up
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def ddim(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: Eta = 0.0
) -> Iterator[Step]:
    """DDIM: Song et al. 2021, equation 12. ``euler_ancestral`` with a default ``eta`` of 0."""
    return euler_ancestral(denoise, x, sigmas, noise=noise, eta=eta)


def ddpm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:
    """DDPM with the small ("posterior") variance: Ho et al. 2020, equation 7. ``euler_ancestral`` with eta 1."""
    return euler_ancestral(denoise, x, sigmas, noise=noise, eta=1.0)


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """The level to step down to, and the fresh noise from there: their squares sum to that of ``sigma_next``."""
    sigma_up = min(sigma_next, eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2))
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up
