"""Heun's method on the probability-flow equation."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.churn import Churn
from diffuscope.diffusion.samplers.contract import PURE_NOISE, AtLeast0, checked
from diffuscope.types import Denoiser, Noise, Step


@checked(noise="s_churn")
def heun(
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
    """Second-order method: Karras et al. 2022, Algorithm 2. Two calls per step.

    Steps to level 0 and from pure noise are Euler steps, with one call. Options as in ``euler``.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, raised = churn.apply(x, sigma, len(sigmas) - 1, noise)
        x0 = denoise(x, raised)
        step = Step(i, sigma_next, heun_step(denoise, x, x0, raised, sigma_next), x0)
        yield step
        x = step.x


def heun_step(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The latents at ``sigma_next`` after one Heun step, from the clean estimate ``x0`` at ``sigma``."""
    x_next = x0 + (x - x0) * (sigma_next / sigma)
    if sigma_next > 0 and sigma < PURE_NOISE:
        slope = (x - x0) / sigma
        slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
        x_next = x_next + (slope_next - slope) * ((sigma_next - sigma) / 2)
    return x_next
