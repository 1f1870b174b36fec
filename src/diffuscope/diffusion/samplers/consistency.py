"""Few-step samplers for distilled networks, which estimate the end of the path and not a mean."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import checked
from diffuscope.diffusion.timesteps import sigma_to_t
from diffuscope.types import Denoiser, Noise, Step

_DATA_STD = 0.5
_TIME_SCALE = 10.0


@checked(noise=True)
def lcm(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    log_sigmas: Sequence[float] = (),
) -> Iterator[Step]:
    """Multistep consistency sampling, for networks distilled for it: Song et al. 2023, Algorithm 1; Luo et al. 2023.

    Each step goes to the clean estimate, then adds fresh noise up to the next level. The estimate of a network that
    is not distilled is an average, and its samples would lose their variety.

    Args:
        log_sigmas: with it the estimate keeps the share of ``x`` in LCM's boundary condition, which is below 1e-5 from
            timestep 16; without, none.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        x_next = x0
        if log_sigmas:
            time = _TIME_SCALE * sigma_to_t(log_sigmas, sigma)
            unit = math.hypot(time, _DATA_STD)
            x_next = x0 * (time / unit) + x * ((_DATA_STD / unit) ** 2 / math.hypot(sigma, 1))
        if noise is not None and sigma_next > 0:
            x_next = x_next + noise(x, sigma, sigma_next) * sigma_next
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


@checked(noise="eta")
def tcd(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    eta: Annotated[float, Interval(ge=0, le=1)] = 0.3,
    log_sigmas: Sequence[float] = (),
) -> Iterator[Step]:
    """Strategic stochastic sampling: Zheng et al. 2024 (trajectory consistency distillation), Algorithm 4.

    Each step goes below the next level, then adds fresh noise up to it; the last step goes to its level directly.

    Args:
        eta: the paper's gamma, 0 to 1: how far below the level. 0 is DDIM, 1 is LCM.
        log_sigmas: with it "below" is the share 1 - eta of the next training timestep, in whole timesteps, as in the
            reference; without, that share of the next noise level.
    """
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        is_last = i == len(sigmas) - 2
        sigma_down = sigma_next if is_last else _below(sigma_next, eta, log_sigmas)
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
    whole = round(time) if abs(time - round(time)) < 1e-6 else time  # a whole timestep, up to rounding
    return min(sigma, math.exp(log_sigmas[math.floor((1 - eta) * whole)]))
