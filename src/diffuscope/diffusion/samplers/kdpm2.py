"""DPM-Solver-2 with a midpoint in log sigma, as in k-diffusion: plain and ancestral."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.ancestral import ancestral_split
from diffuscope.diffusion.samplers.churn import Churn
from diffuscope.diffusion.samplers.contract import PURE_NOISE, AtLeast0, Eta, checked
from diffuscope.types import Denoiser, Noise, Step


@checked(noise="s_churn")
def kdpm2(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    s_churn: AtLeast0 = 0.0,
    s_tmin: AtLeast0 = 0.0,
    s_tmax: AtLeast0 = math.inf,
    s_noise: AtLeast0 = 1.0,
) -> Iterator[Step]:
    """Second-order midpoint method: Lu et al. 2022 (DPM-Solver), Algorithm 1, and Karras et al. 2022, Algorithm 2.

    The midpoint is the geometric mean of two levels. Two calls per step; steps to level 0 and from pure noise are
    Euler steps, with one call. Options as in ``euler``.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, raised = churn.apply(x, sigma, len(sigmas) - 1, noise)
        x_next, x0 = _midpoint_step(denoise, x, raised, sigma_next)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


@checked(noise="eta")
def kdpm2_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: Eta = 1.0
) -> Iterator[Step]:
    """``kdpm2`` to below the next level, then fresh noise up to it, as in ``euler_ancestral``."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = ancestral_split(sigma, sigma_next, eta)
        x_next, x0 = _midpoint_step(denoise, x, sigma, sigma_down)
        if noise is not None and sigma_up > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_up
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _midpoint_step(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
    """The latents at ``sigma_next``, and the clean estimate at ``sigma``."""
    x0 = denoise(x, sigma)
    if sigma_next == 0 or sigma >= PURE_NOISE:
        return x0 + (x - x0) * (sigma_next / sigma), x0
    middle = math.sqrt(sigma * sigma_next)
    x_middle = x0 + (x - x0) * (middle / sigma)
    slope = (x_middle - denoise(x_middle, middle)) / middle
    return x + slope * (sigma_next - sigma), x0
