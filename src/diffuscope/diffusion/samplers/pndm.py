"""Pseudo linear multistep methods: Adams-Bashforth weights as if all steps were of one width."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from torch import Tensor

from diffuscope.types import Denoiser, Noise, Step

_OLDER = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth's weights of the older slopes, for 1 to 4 slopes; all weights add up to 1."""


def pndm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:  # noqa: ARG001
    """Pseudo linear multistep method ("PLMS"): Liu et al. 2022, equation 12, in the form of Stable Diffusion.

    There the Runge-Kutta start of the paper is left out: the first step is one of Heun's, with the second slope
    forgotten, and orders 2 to 4 follow.

    Args:
        denoise: estimates clean latents; called once a step, and twice in the first.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    return _pseudo(denoise, x, sigmas, corrects_first=True)


def ipndm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:  # noqa: ARG001
    """Improved PNDM: Zhang & Chen 2023, appendix D. ``pndm`` whose first step is Euler's.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    return _pseudo(denoise, x, sigmas, corrects_first=False)


def _pseudo(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], corrects_first: bool) -> Iterator[Step]:
    slopes: deque[Tensor] = deque(maxlen=len(_OLDER))  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes.appendleft((x - x0) / sigma)
        # The weights add up to 1: Euler's step, exact at level 0, plus what the older slopes correct.
        x_next = x0 + (x - x0) * (sigma_next / sigma)
        for slope, weight in zip(islice(slopes, 1, None), _OLDER[len(slopes) - 1], strict=True):
            x_next = x_next + (slope - slopes[0]) * (weight * (sigma_next - sigma))
        if corrects_first and i == 0 and sigma_next > 0 and len(sigmas) > 2:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x_next + (slope_next - slopes[0]) * ((sigma_next - sigma) / 2)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x
