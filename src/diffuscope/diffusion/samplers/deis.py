"""DEIS: exponential Adams-Bashforth in log sigma."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import checked
from diffuscope.types import Denoiser, Noise, Step

_SHORT_RUN = 15


@checked()
def deis(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    order: Annotated[int, Interval(ge=1, le=3)] = 2,
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """Multistep method: integrates a polynomial of slopes in log sigma. Zhang & Chen 2023, log-rho tAB-DEIS.

    The first step and a step to level 0 are Euler steps, so the global order is 2.

    Args:
        order: number of slopes of a step.
        lower_order_final: whether in runs of fewer than 15 steps the last step is of first order and the one before of
            second at most.
    """
    steps = len(sigmas) - 1
    slopes: deque[Tensor] = deque(maxlen=order)  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes.appendleft((x - x0) / sigma)
        x_next = x0 + (x - x0) * (sigma_next / sigma)
        max_order = min(order, steps - i) if lower_order_final and steps < _SHORT_RUN else order
        older = list(islice(slopes, 1, max_order)) if sigma_next > 0 else []
        weights = _weights([sigmas[i - j] for j in range(len(older) + 1)], sigma_next)
        for slope, weight in zip(older, weights, strict=True):
            x_next = x_next + (slope - slopes[0]) * weight
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integral over sigma, from ``nodes[0]`` to ``end``, of the older nodes' Lagrange polynomials in log sigma.

    With w = log(sigma / nodes[0]), each is nodes[0] times the integral of e^w times a polynomial that is 0 at w = 0.
    """
    if len(nodes) == 1:
        return []
    w = math.log(end / nodes[0])
    first = (w - 1) * math.exp(w) + 1
    second = (w * w - 2 * w + 2) * math.exp(w) - 2
    a, *rest = (math.log(node / nodes[0]) for node in nodes[1:])
    if not rest:
        return [nodes[0] * first / a]
    b = rest[0]
    return [nodes[0] * (second - b * first) / (a * (a - b)), nodes[0] * (second - a * first) / (b * (b - a))]
