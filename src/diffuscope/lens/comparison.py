"""Two runs beside each other: the first step at which they part, and how far apart they are from there on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.pipeline.run import Run
from diffuscope.types import Brief


@dataclass(frozen=True, repr=False)
class Comparison(Brief):
    """Where two runs part."""

    first: int | None
    """index of the first step at which any bit differs, or which only one of them has; None if there is none"""
    distances: tuple[float, ...]
    """root of the mean square of the difference, for each step that both have; images have about 1"""
    largest: tuple[float, ...]
    """largest absolute difference, likewise"""


def compare(left: Run | Sequence[Tensor], right: Run | Sequence[Tensor]) -> Comparison:
    """Compare the clean estimates of two runs, step by step.

    Args:
        left: a run that has been made, or as far as it has come; or a tensor for each step.
        right: the other one, of the same shape.

    Raises:
        InputError: no step, or other shapes.
    """
    a, b = _estimates(left, "left"), _estimates(right, "right")
    for x, y in zip(a, b, strict=False):
        if x.shape != y.shape:
            raise InputError("right", y, f"tensors of shape {list(x.shape)}")
    pairs = [(x.detach().cpu(), y.detach().cpu()) for x, y in zip(a, b, strict=False)]
    differences = [x.double() - y.double() for x, y in pairs]
    parted = (step for step, (x, y) in enumerate(pairs) if not torch.equal(x, y))
    shorter = None if len(a) == len(b) else len(pairs)
    return Comparison(
        first=next(parted, shorter),
        distances=tuple(float(each.square().mean().sqrt()) for each in differences),
        largest=tuple(float(each.abs().max()) for each in differences),
    )


def _estimates(run: Run | Sequence[Tensor], argument: str) -> Sequence[Tensor]:
    """The clean estimate of each step, that of its first network call."""
    if isinstance(run, Run):
        found: Sequence[Tensor] = [run.answers[step][0].x0 for step in range(run.answers.complete)]
        if len(found) < run.done:
            got = Unquoted(f"a run of {run.done} steps of which {len(found)} are recorded")
            raise InputError(argument, got, "one that is recorded whole, or a tensor for each step")
        run = found
    if not len(run):
        raise InputError(argument, Unquoted("no step"), "a run that has made a step")
    return run
