"""Linear multistep (Adams-Bashforth) method on the probability-flow equation, in sigma."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_order
from diffuscope.types import Denoiser, Noise, Step

_HIGHEST_ORDER = 4


def lms(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,  # noqa: ARG001
    order: int = 4,
) -> Iterator[Step]:
    """Multistep solver: integrates the polynomial through the slopes of the last ``order`` levels.

    Adams-Bashforth with variable steps: Hairer et al. 1993, section III.5. The first steps have fewer slopes, the very
    first being Euler's, so the global order is 2.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.
        order: number of slopes, 1 to 4.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: ``order`` is outside 1 to 4. At the call, before any step.
    """
    check_order(order, _HIGHEST_ORDER)
    return _lms(denoise, x, sigmas, order)


def _lms(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], order: int) -> Iterator[Step]:
    slopes: deque[Tensor] = deque(maxlen=order)  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes.appendleft((x - x0) / sigma)
        nodes = [sigmas[i - j] for j in range(len(slopes))]
        # The weights add up to the interval: Euler's step, exact at level 0, plus what the older slopes correct.
        x_next = x0 + (x - x0) * (sigma_next / sigma)
        for slope, weight in zip(islice(slopes, 1, None), adams_weights(nodes, sigma_next)[1:], strict=True):
            x_next = x_next + (slope - slopes[0]) * weight
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def adams_weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integral from ``nodes[0]`` to ``end`` of each Lagrange polynomial of the at most four distinct ``nodes``.

    Two Gauss-Legendre points are exact for their third degree.
    """
    middle, half = (nodes[0] + end) / 2, (end - nodes[0]) / 2
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))

    def basis(node: float, point: float) -> float:
        return math.prod((point - other) / (node - other) for other in nodes if other != node)

    return [half * sum(basis(node, point) for point in points) for node in nodes]
