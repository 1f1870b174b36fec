"""DPM-Solver++ of second order, multistep."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.types import Denoiser, Noise, Step

_SHORT_RUN = 15


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:  # noqa: ARG001
    """Second-order multistep solver in log sigma: Lu et al. 2022 (DPM-Solver++), Algorithm 2.

    In ``x = x0 + sigma * noise`` it is Euler's step towards an estimate extrapolated from this one and the last. The
    first step is Euler's; so is the last one where it goes to level 0, or where there are fewer than 15 steps, which
    the reference found to be more stable.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    steps = len(sigmas) - 1
    before: tuple[Tensor, float] | None = None  # the last estimate, and its step's width in log sigma
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        width = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        target = x0
        if before is not None and sigma_next > 0 and not (i == steps - 1 and steps < _SHORT_RUN):
            target = x0 + (x0 - before[0]) * (width / (2 * before[1]))
        step = Step(i, sigma_next, target + (x - target) * (sigma_next / sigma), x0)
        yield step
        x, before = step.x, (x0, width)
