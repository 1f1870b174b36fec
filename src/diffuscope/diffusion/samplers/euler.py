"""Euler's method on the probability-flow equation."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.churn import Churn
from diffuscope.diffusion.samplers.contract import AtLeast0, checked
from diffuscope.types import Denoiser, Noise, Step


@checked(noise="s_churn")
def euler(
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
    """First-order method: Karras et al. 2022, Algorithm 2 without the correction.

    Args:
        s_churn: noise added over the whole run; 0 is the deterministic method.
        s_tmin: lowest noise level with churn.
        s_tmax: highest noise level with churn.
        s_noise: factor of the added noise.
    """
    churn = Churn(s_churn, s_tmin, s_tmax, s_noise)
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, raised = churn.apply(x, sigma, len(sigmas) - 1, noise)
        x0 = denoise(x, raised)
        step = Step(i, sigma_next, x0 + (x - x0) * (sigma_next / raised), x0)
        yield step
        x = step.x
