"""DPM-Solver++ with a midpoint and fresh noise: 2S ancestral and SDE, as in k-diffusion."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.ancestral import ancestral_split
from diffuscope.diffusion.samplers.contract import Eta, checked
from diffuscope.types import Denoiser, Noise, Step


@checked(noise="eta")
def dpmpp_2s_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: Eta = 1.0
) -> Iterator[Step]:
    """Second-order step to below the next level (Lu et al. 2022, DPM-Solver++, Algorithm 1), then fresh noise.

    Two calls per step, one where it steps down to level 0.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = ancestral_split(sigma, sigma_next, eta)
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


@checked(noise="eta")
def dpmpp_sde(
    denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise | None = None, eta: Eta = 1.0
) -> Iterator[Step]:
    """Stochastic DPM-Solver++ with a midpoint: Lu et al. 2022, appendix E. Two calls per step, one to level 0.

    ``noise`` is drawn from a step's level to its middle and to its end, and should be consistent between the two:
    ``noise.BrownianNoise``.
    """

    def step_to(target: Tensor, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        sigma_down, sigma_up = ancestral_split(sigma, sigma_next, eta)
        x_next = target + (x - target) * (sigma_down / sigma)
        return x_next if noise is None or sigma_up == 0 else x_next + noise(x, sigma, sigma_next) * sigma_up

    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = target = denoise(x, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            target = denoise(step_to(x0, x, sigma, middle), middle)
        step = Step(i, sigma_next, step_to(target, x, sigma, sigma_next), x0)
        yield step
        x = step.x
