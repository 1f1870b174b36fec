"""UniPC: a multistep predictor whose last step is corrected by the next estimate, at no further call."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from diffuscope.diffusion.samplers.checks import check_choice, check_order
from diffuscope.types import Denoiser, Noise, Step

Variant = Literal["bh1", "bh2"]
"""The paper's two choices of B(h): h itself, or e^h - 1."""

_HIGHEST_ORDER = 3


def unipc(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise: Noise | None = None,  # noqa: ARG001
    order: int = 2,
    variant: Variant = "bh2",
) -> Iterator[Step]:
    """UniPC on the clean estimate, multistep: Zhao et al. 2023, Algorithms 1 and 2.

    A step is corrected as soon as the estimate at its end is known, which is the estimate that the next step needs
    anyway. The correction is added to what stands in ``step.x``. The first step and the last are of first order.

    Args:
        denoise: estimates clean latents; called once a step.
        x: [B,C,H,W] latents with noise of standard deviation ``sigmas[0]``. Not modified.
        sigmas: strictly decreasing noise levels in latent units; the last may be 0.
        noise: not used.
        order: number of estimates, 1 to 3.
        variant: "bh1" or "bh2".

    Yields:
        One Step per interval. The last one's ``x`` is the sample.

    Raises:
        InputError: ``order`` is outside 1 to 3, or there is no such ``variant``. At the call, before any step.
    """
    check_order(order, _HIGHEST_ORDER)
    check_choice("variant", variant, get_args(Variant))
    return _unipc(denoise, x, sigmas, order, variant)


class _Prediction(NamedTuple):
    """A step that waits for its correction."""

    added: Tensor | None
    """What the older estimates added to the first-order step."""
    slopes: list[Tensor]
    weights: list[float]
    x0: Tensor


def _unipc(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], order: int, variant: Variant) -> Iterator[Step]:
    steps = len(sigmas) - 1
    past: deque[tuple[Tensor, float]] = deque(maxlen=order)  # newest first: estimate, its log sigma
    waiting: _Prediction | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        if waiting is not None:
            correction = _combined([*waiting.slopes, x0 - waiting.x0], waiting.weights)
            x = x + (correction if waiting.added is None else correction - waiting.added)
        past.appendleft((x0, math.log(sigma)))
        x_next, waiting = x0 + (x - x0) * (sigma_next / sigma), None
        if sigma_next > 0:
            width = math.log(sigma / sigma_next)
            known = list(past)[: min(order, steps - i)]
            ratios = [(math.log(sigma) - level) / width for _, level in known[1:]]  # below 0: they lie behind
            slopes = [(older - x0) / ratio for (older, _), ratio in zip(known[1:], ratios, strict=True)]
            predictor, corrector = _weights(ratios, width, variant)
            added = _combined(slopes, predictor) if slopes else None
            x_next = x_next if added is None else x_next + added
            waiting = _Prediction(added, slopes, corrector, x0)
        step = Step(i, sigma_next, x_next, x0)
        yield step
        x = step.x


def _combined(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def _weights(ratios: Sequence[float], width: float, variant: Variant) -> tuple[list[float], list[float]]:
    """Weights of the predictor's differences and of the corrector's, one more: Zhao et al. 2023, equation 5.

    ``ratios`` place the older estimates in log sigma, in widths of the step, seen from its start; 1 is its end.
    """
    h = -width
    scale = h if variant == "bh1" else math.expm1(h)
    nodes = [*ratios, 1.0]
    phi, factorial, sides = math.expm1(h) / h - 1, 1, []
    for power in range(len(nodes)):
        sides.append(phi * factorial / scale)
        factorial *= power + 2
        phi = phi / h - 1 / factorial
    predictor = [0.5] if len(nodes) == 2 else _solved(nodes[:-1], sides[:-1])
    corrector = [0.5] if len(nodes) == 1 else _solved(nodes, sides)
    return [-scale * weight for weight in predictor], [-scale * weight for weight in corrector]


def _solved(nodes: Sequence[float], sides: Sequence[float]) -> list[float]:
    """The weights for which ``sum(weight * node**k) == sides[k]`` for each k."""
    if not nodes:
        return []
    powers = torch.tensor([[node**k for node in nodes] for k in range(len(nodes))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(sides, dtype=torch.float64)).tolist()
