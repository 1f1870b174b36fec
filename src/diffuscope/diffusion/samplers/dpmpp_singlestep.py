"""DPM-Solver++, singlestep: orders built up anew in every group of steps."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_order
from diffuscope.types import Denoiser, Noise, Step

_HIGHEST_ORDER = 3


def dpmpp_2s(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,  # noqa: ARG001
    order: int = 2,
) -> Iterator[Step]:
    """Singlestep solver in log sigma: Lu et al. 2022 (DPM-Solver++), Algorithm 1, on the given levels.

    Every group of ``order`` intervals is one step of that order: its first interval is Euler's, its second corrects
    both with the second estimate, and so on. The step to level 0, if any, is Euler's.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.
        order: intervals to a group, 1 to 3.

    Yields:
        One Step per interval. The last one's ``x`` is the sample. A value assigned within a group is carried on.

    Raises:
        InputError: ``order`` is outside 1 to 3. At the call, before any step.
    """
    check_order(order, _HIGHEST_ORDER)
    return _singlestep(denoise, x, sigmas, order)


def _singlestep(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], order: int) -> Iterator[Step]:
    group: list[tuple[Tensor, float]] = []  # estimates and their levels, oldest first
    added: Tensor | None = None  # what the group's last step added to the line from its start to its first estimate
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if i % order == 0 or sigma_next == 0:
            group, added = [], None
        group.append((x0, sigma))
        target = group[0][0]
        line = x if added is None else x - added  # so that a value that was assigned is carried on
        x_next = target + (line - target) * (sigma_next / sigma)
        added = _correction(group, sigma_next) if len(group) > 1 else None
        step = Step(i, sigma_next, x_next if added is None else x_next + added, x0)
        yield step
        x = step.x


def _correction(group: Sequence[tuple[Tensor, float]], sigma_next: float) -> Tensor:
    """What the later estimates of a group add to Euler's step from its first level to ``sigma_next``."""
    (start, start_sigma), (newest, sigma) = group[0], group[-1]
    width = math.log(start_sigma / sigma_next)
    slope = (newest - start) / (math.log(start_sigma / sigma) / width)
    factor = -math.expm1(-width) / 2 if len(group) == 2 else math.expm1(-width) / width + 1
    return slope * factor
