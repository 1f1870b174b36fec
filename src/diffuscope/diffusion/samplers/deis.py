"""DEIS: exponential Adams-Bashforth in log sigma."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_order
from diffuscope.types import Denoiser, Noise, Step

_HIGHEST_ORDER = 3
_SHORT_RUN = 15


def deis(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,  # noqa: ARG001
    order: int = 2,
) -> Iterator[Step]:
    """Multistep solver: integrates the slopes' polynomial in log sigma. Zhang & Chen 2023, log-rho tAB-DEIS.

    The first step is Euler's, so the global order is 2; so is a step to level 0. In runs of fewer than 15 steps the
    last step is of first and the one before at most of second order.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.
        order: number of slopes, 1 to 3.

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: ``order`` is outside 1 to 3. At the call, before any step.
    """
    check_order(order, _HIGHEST_ORDER)
    return _deis(denoise, x, sigmas, order)


def _deis(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], order: int) -> Iterator[Step]:
    steps = len(sigmas) - 1
    slopes: deque[Tensor] = deque(maxlen=order)  # newest first
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        slopes.appendleft((x - x0) / sigma)
        x_next = x0 + (x - x0) * (sigma_next / sigma)
        most = min(order, steps - i) if steps < _SHORT_RUN else order
        older = list(islice(slopes, 1, most)) if sigma_next > 0 else []
        weights = _weights([sigmas[i - j] for j in range(len(older) + 1)], sigma_next)
        for slope, weight in zip(older, weights, strict=True):
            x_next = x_next + (slope - slopes[0]) * weight
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integral over sigma, from ``nodes[0]`` to ``end``, of the older nodes' Lagrange polynomials in log sigma.

    With w = log(sigma / nodes[0]) they are nodes[0] times integrals of e^w times a polynomial that is 0 at w = 0.
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
