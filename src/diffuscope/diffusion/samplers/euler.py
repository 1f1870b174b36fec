"""Euler's method on the probability-flow equation."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.churn import Churn
from diffuscope.types import Denoiser, Noise, Step

PURE_NOISE = 1000.0
"""Noise level from which on nothing of a picture is left, as at the start of models with zero terminal SNR.

That level stands for an infinite one, so a slope in sigma says nothing about a step that begins there: methods that
compare slopes within a step make Euler's there, which goes straight to the clean estimate.
"""


def euler(
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
    """First-order solver: Karras et al. 2022, Algorithm 2 without the correction.

    Args:
        denoise: estimates clean latents; called once a step.
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
    return _euler(denoise, x, sigmas, noise, churn)


def _euler(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, churn: Churn) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, raised = churn.apply(x, sigma, len(sigmas) - 1, noise)
        x0 = denoise(x, raised)
        step = Step(i, sigma_next, x0 + (x - x0) * (sigma_next / raised), x0)
        yield step
        x = step.x
