"""Few-step solvers for distilled networks, whose estimate is where the path ends and not a mean."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_noise
from diffuscope.diffusion.timesteps import sigma_to_t
from diffuscope.errors import InputError
from diffuscope.types import Denoiser, Noise, Step

_DATA_STD = 0.5
_TIME_SCALE = 10.0


def lcm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    log_sigmas: Sequence[float] = (),
) -> Iterator[Step]:
    """Multistep consistency sampling: to the estimate, and fresh noise up to the next level. Luo et al. 2023 (LCM).

    Song et al. 2023, Algorithm 1. It suits networks that were distilled for it, and no others: a plain network's
    estimate is an average, and the variety of its samples is lost.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step to a level above 0.
        log_sigmas: ``Levels.log_sigmas``.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``. At the call, before any step.
    """
    if noise is None:
        raise InputError("this sampler draws noise but was given none: pass noise")
    return _lcm(denoise, x, sigmas, noise, log_sigmas)


def tcd(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    eta: float = 0.3,
    log_sigmas: Sequence[float] = (),
) -> Iterator[Step]:
    """Strategic stochastic sampling: Zheng et al. 2024 (trajectory consistency distillation), Algorithm 4.

    Each step goes below the next level and fresh noise leads back up to it; the last step goes to its level directly.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step but the last. Needed unless ``eta`` is 0.
        eta: the paper's gamma, 0 to 1: how far below. 0 is DDIM, 1 is LCM's way.
        log_sigmas: ``Levels.log_sigmas``.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, or ``eta`` is outside 0 to 1. At the call, before any step.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta {eta} is outside 0 to 1: 0 is DDIM, 1 forgets all noise at each step")
    check_noise(noise, eta, "eta")
    return _tcd(denoise, x, sigmas, noise, (eta, log_sigmas))


def _lcm(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, log_sigmas: Sequence[float]
) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x_next = x0
        if log_sigmas:
            time = _TIME_SCALE * sigma_to_t(log_sigmas, sigma)
            unit = math.hypot(time, _DATA_STD)
            x_next = x0 * (time / unit) + x * ((_DATA_STD / unit) ** 2 / math.hypot(sigma, 1))
        if sigma_next > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_next
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _tcd(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise | None,
    below: tuple[float, Sequence[float]],
) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        is_last = i == len(sigmas) - 2
        sigma_down = sigma_next if is_last else _below(sigma_next, *below)
        x0 = denoise(x, sigma)
        x_next = x0 + (x - x0) * (sigma_down / sigma)
        if noise is not None and sigma_down < sigma_next:
            x_next = x_next + noise(x, sigma, sigma_next) * math.sqrt(sigma_next**2 - sigma_down**2)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _below(sigma: float, eta: float, log_sigmas: Sequence[float]) -> float:
    if eta == 0:
        return sigma
    if not log_sigmas:
        return (1 - eta) * sigma
    time = sigma_to_t(log_sigmas, sigma)
    whole = round(time) if abs(time - round(time)) < 1e-6 else time  # a listed time, but for rounding
    return min(sigma, math.exp(log_sigmas[math.floor((1 - eta) * whole)]))
