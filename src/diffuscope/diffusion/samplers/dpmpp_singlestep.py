"""DPM-Solver++, singlestep: the order is built up again in every group of steps."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import checked
from diffuscope.types import Denoiser, Noise, Step


@checked()
def dpmpp_2s(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    order: Annotated[int, Interval(ge=1, le=3)] = 2,
    lower_order_final: bool = False,
) -> Iterator[Step]:
    """Singlestep method in log sigma: Lu et al. 2022 (DPM-Solver++), Algorithm 1, on the given levels.

    A group of ``order`` intervals is one step of that order: the first interval is an Euler step, the second corrects
    both with the second estimate, and so on. The step to level 0 is an Euler step. An ``x`` that is assigned within a
    group is carried on.

    Args:
        order: intervals of a group.
        lower_order_final: whether the last interval is an Euler step where it would end a whole group.
    """
    euler_from = len(sigmas) - 2 if lower_order_final and (len(sigmas) - 1) % order == 0 else len(sigmas)
    group: list[tuple[Tensor, float]] = []  # estimates and their levels, oldest first
    added: Tensor | None = None  # correction in the group's last step
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if i % order == 0 or sigma_next == 0 or i == euler_from:
            group, added = [], None
        group.append((x0, sigma))
        target = group[0][0]
        line = x if added is None else x - added  # not from the group's start, so that an assigned x is carried on
        x_next = target + (line - target) * (sigma_next / sigma)
        added = _correction(group, sigma_next) if len(group) > 1 else None
        step = Step(i, sigma_next, x_next if added is None else x_next + added, x0)
        yield step
        x = step.x


def _correction(group: Sequence[tuple[Tensor, float]], sigma_next: float) -> Tensor:
    """What the later estimates of a group add to the Euler step from its first level to ``sigma_next``."""
    (start, start_sigma), (newest, sigma) = group[0], group[-1]
    width = math.log(start_sigma / sigma_next)
    slope = (newest - start) / (math.log(start_sigma / sigma) / width)
    factor = -math.expm1(-width) / 2 if len(group) == 2 else math.expm1(-width) / width + 1
    return slope * factor
