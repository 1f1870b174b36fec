"""What every sampler shares: its type, the check of its options, its end, and a count of its network calls."""

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, ParamSpec

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.schema import conformed
from diffuscope.types import Step

P = ParamSpec("P")

Sampler = Callable[..., Iterator[Step]]
"""``(denoise, x [B,C,H,W], sigmas, *, noise=None, **options)`` -> one Step per interval of ``sigmas``."""

AtLeast0 = Annotated[float, Ge(0)]
Above0 = Annotated[float, Gt(0)]
Eta = AtLeast0
"""Amount of fresh noise: 0 is the deterministic method, 1 the reverse stochastic equation, or DDPM's variance."""

PURE_NOISE = 1000.0
"""Noise level from which nothing of the image is left, as at the start of a run with zero terminal SNR.

Such a level stands for an infinite one, where a slope in sigma is meaningless. Samplers that compare slopes within a
step take an Euler step there, straight to the clean estimate.
"""


def options(sampler: Sampler) -> dict[str, inspect.Parameter]:
    """The keywords of a sampler that a caller may set, by name, each with its default and its annotation."""
    parameters = inspect.signature(sampler).parameters
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("noise", "log_sigmas")
    }


def checked(
    noise: str | Literal[True] | None = None, also: Callable[[Mapping[str, Any]], None] | None = None
) -> Callable[[Callable[P, Iterator[Step]]], Callable[P, Iterator[Step]]]:
    """Refuse impossible options at the call of a sampler: its body, a generator's, runs at the first ``next``.

    Ranges and choices are the annotations of the sampler's keywords, such as ``Annotated[int, Interval(ge=1, le=3)]``.

    Args:
        noise: the option that needs ``noise`` where it is above 0; True if the sampler always does.
        also: checks options against each other.
    """

    def decorate(sampler: Callable[P, Iterator[Step]]) -> Callable[P, Iterator[Step]]:
        signature = inspect.signature(sampler)

        @functools.wraps(sampler)
        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[Step]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, parameter in options(sampler).items():
                if bound.arguments[name] != parameter.default:
                    conformed(bound.arguments[name], parameter.annotation, name)
            if also is not None:
                also(bound.arguments)
            if noise and bound.arguments["noise"] is None and (noise is True or bound.arguments[noise] > 0):
                hint = "" if noise is True else f"Or set {noise}=0"
                raise InputError("noise", None, "a source of noise, such as PerImageNoise", hint)
            return sampler(*args, **kwargs)

        return call

    return decorate


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

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return x

    counts = []
    x = torch.zeros(1, 1, 1, 1, device="cpu")
    for _ in sampler(denoise, x, sigmas, noise=lambda like, *_: torch.zeros_like(like), **options):
        counts.append(calls)
        calls = 0
    return counts
