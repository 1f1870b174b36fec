"""Pseudo linear multistep methods: Adams-Bashforth weights of evenly spaced steps."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.contract import PURE_NOISE
from diffuscope.diffusion.samplers.heun import heun_step
from diffuscope.diffusion.timesteps import sigma_to_t, t_to_log_sigma
from diffuscope.types import Denoiser, Noise, Step

_OLDER = ((), (), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of the older slopes, for 0 to 4 slopes; all weights sum to 1."""

_Start = Callable[[Denoiser, Tensor, Tensor, float, float], Tensor]
"""``(denoise, x, x0, sigma, sigma_next)`` -> the latents at ``sigma_next``, by a method without older slopes."""


def pndm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:
    """Pseudo linear multistep method ("PLMS"): Liu et al. 2022, equation 12, as in Stable Diffusion.

    That form omits the Runge-Kutta start of the paper (see ``f_pndm``): the first step that is not from pure noise is a
    Heun step, with two calls, whose second slope is not kept. Orders 2 to 4 follow.
    """
    return _pseudo_multistep(denoise, x, sigmas, heun_step, 1)


def f_pndm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    log_sigmas: Sequence[float] = (),
) -> Iterator[Step]:
    """The paper's own PNDM of fourth order ("F-PNDM"): Liu et al. 2022, Algorithm 2.

    The first three steps that are not from pure noise are pseudo Runge-Kutta steps (equation 13), with four calls;
    their slopes start the multistep method of order 4 (equation 12). A step to level 0 never is one, nor is the only
    step of a run.

    Args:
        log_sigmas: for the middle of a step in training timesteps, as in the paper; without, in noise levels.
    """

    def start(denoise: Denoiser, x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
        return _runge_kutta_step(denoise, x, x0, (sigma, _middle(sigma, sigma_next, log_sigmas), sigma_next))

    return _pseudo_multistep(denoise, x, sigmas, start, 3)


def ipndm(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None) -> Iterator[Step]:
    """Improved PNDM: Zhang & Chen 2023, appendix D. ``pndm`` with an Euler step as its first."""
    return _pseudo_multistep(denoise, x, sigmas, heun_step, 0)


def _pseudo_multistep(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], start: _Start, start_steps: int
) -> Iterator[Step]:
    """The multistep method, with ``start`` in the first ``start_steps`` steps that end above level 0.

    These are counted after the steps from pure noise, which are Euler steps and leave no slope.
    """
    start_steps += sum(sigma >= PURE_NOISE for sigma in sigmas)
    slopes: deque[Tensor] = deque(maxlen=len(_OLDER) - 1)  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if sigma < PURE_NOISE:
            slopes.appendleft((x - x0) / sigma)
        if slopes and i < start_steps and sigma_next > 0 and len(sigmas) > 2:
            x_next = start(denoise, x, x0, sigma, sigma_next)
        else:
            # The weights sum to 1: an Euler step, exact at level 0, plus corrections by the older slopes.
            x_next = _euler_step(x, x0, sigma, sigma_next)
            for slope, weight in zip(islice(slopes, 1, None), _OLDER[len(slopes)], strict=True):
                x_next = x_next + (slope - slopes[0]) * (weight * (sigma_next - sigma))
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _euler_step(x: Tensor, x0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    return x0 + (x - x0) * (sigma_next / sigma)


def _slope(denoise: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return (x - denoise(x, sigma)) / sigma


def _runge_kutta_step(denoise: Denoiser, x: Tensor, x0: Tensor, levels: tuple[float, float, float]) -> Tensor:
    """Kutta's step of four slopes, as an Euler step plus corrections by the three others."""
    sigma, middle, end = levels
    first, half, x_next = (x - x0) / sigma, _euler_step(x, x0, sigma, middle), _euler_step(x, x0, sigma, end)
    second = _slope(denoise, half, middle) - first
    third = _slope(denoise, half + second * (middle - sigma), middle) - first
    last = _slope(denoise, x_next + third * (end - sigma), end) - first
    return x_next + ((second + third) * 2 + last) * ((end - sigma) / 6)


def _middle(sigma: float, sigma_next: float, log_sigmas: Sequence[float]) -> float:
    """Half-way in training timesteps if ``log_sigmas`` covers both levels, else half-way in noise levels."""
    if log_sigmas and log_sigmas[0] <= math.log(sigma_next) and math.log(sigma) <= log_sigmas[-1]:
        middle = (sigma_to_t(log_sigmas, sigma) + sigma_to_t(log_sigmas, sigma_next)) / 2
        return math.exp(t_to_log_sigma(log_sigmas, middle))
    return (sigma + sigma_next) / 2
