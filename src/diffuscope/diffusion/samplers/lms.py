"""Linear multistep (Adams-Bashforth) method on the probability-flow equation, in sigma."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import checked
from diffuscope.types import Denoiser, Noise, Step


@checked()
def lms(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    order: Annotated[int, Interval(ge=1, le=4)] = 4,
) -> Iterator[Step]:
    """Multistep method: integrates the polynomial through the slopes of the last ``order`` levels.

    Adams-Bashforth with variable steps: Hairer et al. 1993, section III.5. The first steps have fewer slopes and the
    very first is an Euler step, so the global order is 2.
    """
    slopes: deque[Tensor] = deque(maxlen=order)  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes.appendleft((x - x0) / sigma)
        nodes = [sigmas[i - j] for j in range(len(slopes))]
        # The weights sum to the interval: an Euler step, exact at level 0, plus corrections by the older slopes.
        x_next = x0 + (x - x0) * (sigma_next / sigma)
        for slope, weight in zip(islice(slopes, 1, None), adams_weights(nodes, sigma_next)[1:], strict=True):
            x_next = x_next + (slope - slopes[0]) * weight
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def adams_weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integral from ``nodes[0]`` to ``end`` of each Lagrange polynomial of the at most four distinct ``nodes``."""
    middle, half = (nodes[0] + end) / 2, (end - nodes[0]) / 2
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))  # Gauss-Legendre: exact to degree three

    def basis(node: float, point: float) -> float:
        return math.prod((point - other) / (node - other) for other in nodes if other != node)

    return [half * sum(basis(node, point) for point in points) for node in nodes]
