"""Heun's method on the probability-flow equation."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.types import Denoiser, Noise, Step


def heun(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:  # noqa: ARG001
    """Second-order solver: Karras et al. 2022, Algorithm 1. The step to level 0, if any, is Euler's.

    Args:
        denoise: estimates clean latents; called twice a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x_next = x0 + (x - x0) * (sigma_next / sigma)
        if sigma_next > 0:
            slope = (x - x0) / sigma
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x_next + (slope_next - slope) * ((sigma_next - sigma) / 2)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x
