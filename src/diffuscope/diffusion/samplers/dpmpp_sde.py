"""DPM-Solver++ with a look in the middle and fresh noise: 2S ancestral and SDE, as k-diffusion has them."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.ancestral import split
from diffuscope.diffusion.samplers.checks import check_eta, check_noise
from diffuscope.types import Denoiser, Noise, Step


def dpmpp_2s_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """Second-order step of DPM-Solver++ (Lu et al. 2022, Algorithm 1) to below the next level, then fresh noise.

    Args:
        denoise: estimates clean latents; called twice a step, the second time at a level between.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn once per step to a level above 0. Needed unless ``eta`` is 0.
        eta: how much noise is fresh. 0 is the deterministic solver.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, or ``eta`` is negative or not finite. At the call, before any step.
    """
    check_eta(eta)
    check_noise(noise, eta, "eta")
    return _2s_ancestral(denoise, x, sigmas, noise, eta)


def dpmpp_sde(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: float = 1.0
) -> Iterator[Step]:
    """Stochastic DPM-Solver++ with a look in the middle: the noise is a path, seen there and at the end.

    Args:
        denoise: estimates clean latents; called twice a step, the second time at a level between.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: drawn twice per step to a level above 0, from its level to the middle and to its end: those of
            ``noise.BrownianNoise`` belong together. Needed unless ``eta`` is 0.
        eta: how much noise is fresh. 0 is the deterministic solver, 1 the reverse stochastic equation.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: no ``noise``, or ``eta`` is negative or not finite. At the call, before any step.
    """
    check_eta(eta)
    check_noise(noise, eta, "eta")
    return _sde(denoise, x, sigmas, noise, eta)


def _2s_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, eta: float
) -> Iterator[Step]:
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        x0 = target = denoise(x, sigma)
        if sigma_down > 0:
            middle = math.sqrt(sigma * sigma_down)
            target = denoise(x0 + (x - x0) * (middle / sigma), middle)
        x_next = target + (x - target) * (sigma_down / sigma)
        if noise is not None and sigma_up > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_up
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _sde(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise | None, eta: float) -> Iterator[Step]:
    def towards(target: Tensor, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        reached = target + (x - target) * (sigma_down / sigma)
        return reached if noise is None or sigma_up == 0 else reached + noise(x, sigma, sigma_next) * sigma_up

    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = target = denoise(x, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            target = denoise(towards(x0, x, sigma, middle), middle)
        step = Step(i, sigma_next, towards(target, x, sigma, sigma_next), x0)
        yield step
        x = step.x
