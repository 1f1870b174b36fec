"""What all samplers share: their type, the end of a run, and the network calls of each step."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import Step

Sampler = Callable[..., Iterator[Step]]
"""``(denoise, x [B,C,H,W], sigmas, *, noise=None, **options)`` -> one Step per interval of ``sigmas``."""


def final(steps: Iterator[Step]) -> Tensor:
    """The latents [B,C,H,W] after the last step: runs a sampler to its end.

    Raises:
        InputError: the sampler made no step.
    """
    last = deque(steps, maxlen=1)
    if not last:
        raise InputError("sigmas", [], "at least two noise levels")
    return last[0].x


def network_calls(sampler: Sampler, sigmas: Sequence[float], **options: object) -> list[int]:
    """How often each step calls the denoiser: counted by running ``sampler`` on a single zero.

    Args:
        sampler: any function that keeps the contract.
        sigmas: noise levels of the run.
        options: the sampler's own.

    Returns:
        One count per step.

    Raises:
        InputError: the sampler refuses its options.
    """
    calls = 0

    def denoise(x: Tensor, sigma: float) -> Tensor:  # noqa: ARG001
        nonlocal calls
        calls += 1
        return x

    counts = []
    x = torch.zeros(1, 1, 1, 1, device="cpu")
    for _ in sampler(denoise, x, sigmas, noise=lambda like, *_: torch.zeros_like(like), **options):
        counts.append(calls)
        calls = 0
    return counts
