"""Euler's method on the probability-flow equation."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.types import Denoiser, Noise, Step


def euler(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:  # noqa: ARG001
    """First-order solver: Karras et al. 2022, Algorithm 1 without the correction.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        step = Step(i, sigma_next, x0 + (x - x0) * (sigma_next / sigma), x0)
        yield step
        x = step.x
