"""Pseudo linear multistep methods: Adams-Bashforth weights as if all steps were of one width."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.euler import PURE_NOISE
from diffuscope.diffusion.timesteps import sigma_to_t, t_to_log_sigma
from diffuscope.types import Denoiser, Noise, Step

_OLDER = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth's weights of the older slopes, for 1 to 4 slopes; all weights add up to 1."""

_SLOPES_WANTED = len(_OLDER) - 1

_Start = Callable[[Denoiser, Tensor, Tensor, float, float], Tensor]
"""``(denoise, x, x0, sigma, sigma_next)`` -> the latents at ``sigma_next``, by a method that needs no older slope."""


def pndm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:  # noqa: ARG001
    """Pseudo linear multistep method ("PLMS"): Liu et al. 2022, equation 12, in the form of Stable Diffusion.

    There the Runge-Kutta start of the paper is left out (``f_pndm`` has it): the first step is one of Heun's, with the
    second slope forgotten, and orders 2 to 4 follow.

    Args:
        denoise: estimates clean latents; called once a step, and twice in the first that is not from pure noise.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """
    return _pseudo(denoise, x, sigmas, _heun, 1)


def f_pndm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,  # noqa: ARG001
    log_sigmas: Sequence[float] = (),
) -> Iterator[Step]:
    """The paper's own PNDM of fourth order: Liu et al. 2022, Algorithm 2, there "F-PNDM".

    The first three steps are of a pseudo Runge-Kutta method (equation 13), each with two calls in its middle and one
    at its end; they make the slopes that the multistep method of order 4 (equation 12) begins with. A step to level 0
    and a run of one step are done without.

    Args:
        denoise: estimates clean latents; called once a step, and four times in each of the first three that are not
            from pure noise.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.
        log_sigmas: ``Levels.log_sigmas``.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.
    """

    def start(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
        return _runge_kutta(denoise, x, x0, (sigma, _middle(sigma, sigma_next, log_sigmas), sigma_next))

    return _pseudo(denoise, x, sigmas, start, _SLOPES_WANTED)


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
    return _pseudo(denoise, x, sigmas, _heun, 0)


def _pseudo(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], start: _Start, starting: int) -> Iterator[Step]:
    """The multistep method, but ``start`` in the first ``starting`` steps of several that end above level 0.

    All that comes after steps from pure noise, which are Euler's and leave no slope behind.
    """
    starting += sum(sigma >= PURE_NOISE for sigma in sigmas)
    slopes: deque[Tensor] = deque(maxlen=len(_OLDER))  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if sigma < PURE_NOISE:
            slopes.appendleft((x - x0) / sigma)
        if sigma >= PURE_NOISE:
            x_next = _euler(x, x0, sigma, sigma_next)
        elif i < starting and sigma_next > 0 and len(sigmas) > 2:
            x_next = start(denoise, x, x0, sigma, sigma_next)
        else:
            # The weights add up to 1: Euler's step, exact at level 0, plus what the older slopes correct.
            x_next = _euler(x, x0, sigma, sigma_next)
            for slope, weight in zip(islice(slopes, 1, None), _OLDER[len(slopes) - 1], strict=True):
                x_next = x_next + (slope - slopes[0]) * (weight * (sigma_next - sigma))
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _euler(x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    return x0 + (x - x0) * (sigma_next / sigma)


def _slope(denoise: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return (x - denoise(x, sigma)) / sigma


def _heun(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    x_next = _euler(x, x0, sigma, sigma_next)
    return x_next + (_slope(denoise, x_next, sigma_next) - (x - x0) / sigma) * ((sigma_next - sigma) / 2)


def _runge_kutta(denoise: Denoiser, x: Tensor, x0: Tensor, levels: tuple[float, float, float]) -> Tensor:
    """Kutta's step of four slopes, written as Euler's and what the three further ones correct."""
    sigma, middle, end = levels
    first, half, x_next = (x - x0) / sigma, _euler(x, x0, sigma, middle), _euler(x, x0, sigma, end)
    second = _slope(denoise, half, middle) - first
    third = _slope(denoise, half + second * (middle - sigma), middle) - first
    last = _slope(denoise, x_next + third * (end - sigma), end) - first
    return x_next + ((second + third) * 2 + last) * ((end - sigma) / 6)


def _middle(sigma: float, sigma_next: float, log_sigmas: Sequence[float]) -> float:
    """Half-way in training times, where the log_sigmas covers both levels; half-way in noise levels otherwise."""
    if log_sigmas and log_sigmas[0] <= math.log(sigma_next) and math.log(sigma) <= log_sigmas[-1]:
        return math.exp(
            t_to_log_sigma(log_sigmas, (sigma_to_t(log_sigmas, sigma) + sigma_to_t(log_sigmas, sigma_next)) / 2)
        )
    return (sigma + sigma_next) / 2
