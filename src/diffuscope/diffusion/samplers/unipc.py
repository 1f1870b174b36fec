"""UniPC: a multistep predictor, each step of which is corrected by the next estimate at no extra call."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor

from diffuscope.diffusion.samplers.contract import checked
from diffuscope.types import Denoiser, Noise, Step

Variant = Literal["bh1", "bh2"]
"""The paper's two choices of B(h): h itself, or e^h - 1."""


class _Prediction(NamedTuple):
    """A step before its correction."""

    added: Tensor | None
    """What older estimates added to the first-order step."""
    slopes: list[Tensor]
    weights: list[float]
    x0: Tensor


@checked()
def unipc(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,
    order: Annotated[int, Interval(ge=1, le=3)] = 2,
    variant: Variant = "bh2",
    lower_order_final: bool = True,
) -> Iterator[Step]:
    """UniPC on the clean estimate, multistep: Zhao et al. 2023, Algorithms 1 and 2.

    A step is corrected by the estimate at its end, which the next step needs anyway; the correction is added to
    ``step.x``. The first step is of first order.

    Args:
        order: highest order of a step.
        variant: the paper's B(h).
        lower_order_final: whether the order falls towards the end, to 1 in the last step. A step to level 0 is of
            first order in any case.
    """
    steps = len(sigmas) - 1
    past: deque[tuple[Tensor, float]] = deque(maxlen=order)  # newest first: estimate, its log sigma
    pending: _Prediction | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if pending is not None:
            correction = _weighted_sum([*pending.slopes, x0 - pending.x0], pending.weights)
            x = x + (correction if pending.added is None else correction - pending.added)
        past.appendleft((x0, math.log(sigma)))
        x_next, pending = x0 + (x - x0) * (sigma_next / sigma), None
        if sigma_next > 0:
            width = math.log(sigma / sigma_next)
            known = list(past)[: min(order, steps - i) if lower_order_final else order]
            ratios = [(math.log(sigma) - level) / width for _, level in known[1:]]  # negative: before the step
            slopes = [(older - x0) / ratio for (older, _), ratio in zip(known[1:], ratios, strict=True)]
            predictor, corrector = _weights(ratios, width, variant)
            added = _weighted_sum(slopes, predictor) if slopes else None
            x_next = x_next if added is None else x_next + added
            pending = _Prediction(added, slopes, corrector, x0)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def _weights(ratios: Sequence[float], width: float, variant: Variant) -> tuple[list[float], list[float]]:
    """Weights of the predictor's differences, and of the corrector's, one more: Zhao et al. 2023, equation 5.

    ``ratios`` are the positions of older estimates in log sigma: 0 is the start of the step, 1 its end.
    """
    h = -width
    scale = h if variant == "bh1" else math.expm1(h)
    nodes = [*ratios, 1.0]
    phi, factorial, moments = math.expm1(h) / h - 1, 1, []
    for power in range(len(nodes)):
        moments.append(phi * factorial / scale)
        factorial *= power + 2
        phi = phi / h - 1 / factorial
    predictor = [0.5] if len(nodes) == 2 else _solve(nodes[:-1], moments[:-1])
    corrector = [0.5] if len(nodes) == 1 else _solve(nodes, moments)
    return [-scale * weight for weight in predictor], [-scale * weight for weight in corrector]


def _solve(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights with ``sum(weight * node**k) == moments[k]`` for each k."""
    if not nodes:
        return []
    powers = torch.tensor([[node**k for node in nodes] for k in range(len(nodes))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()
