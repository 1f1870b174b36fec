"""Scores with 95% intervals that account for several images of one prompt."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted

_Z = 1.959963984540054
_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """A number with its 95% interval. Images of one prompt are not independent."""

    value: float
    low: float
    high: float
    pictures: int
    prompts: int


def proportion(correct: Tensor) -> Score:
    """The share of True in ``correct`` [P,S] (P prompts, S images each), with Wilson's interval (1927).

    Its effective count is p (1 - p) / v, where v is the variance of the mean over prompts (Kish's design effect, 1965),
    clipped to the range from P, as if images of a prompt were one, to P * S, as if they were independent.
    """
    prompts, each = _shape("correct", correct)
    means = correct.double().mean(1)
    value = means.mean().item()
    spread = means.var().item() / prompts if prompts > 1 else 0.0
    count = value * (1 - value) / spread if spread > 0 else 0.0
    count = min(max(count, prompts), prompts * each)
    z2 = _Z**2 / count
    middle = (value + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * (value * (1 - value) / count + z2 / (4 * count)) ** 0.5
    return Score(value, max(0.0, middle - half), min(1.0, middle + half), prompts * each, prompts)


def mean(values: Tensor) -> Score:
    """The mean of ``values`` [P,S], with the percentile interval of the bootstrap over prompts (Efron 1979)."""
    prompts, each = _shape("values", values)
    means = values.double().mean(1).cpu()
    low, high = _percentiles(means[_resampled(prompts)].mean(1))
    return Score(means.mean().item(), low, high, prompts * each, prompts)


def ratio(numerator: Tensor, denominator: Tensor) -> Score:
    """mean(numerator) / mean(denominator) of [P,S] and [P,T], with the percentile interval of the paired bootstrap.

    The ratio is 0 if the denominator is.
    """
    prompts, each = _shape("numerator", numerator)
    if len(denominator) != prompts:
        raise InputError(
            "denominator", Unquoted(f"values of {len(denominator)} prompts"), f"the same {prompts} prompts"
        )
    rows = _resampled(prompts)
    above, below = numerator.double().mean(1).cpu(), denominator.double().mean(1).cpu()
    ratios = _quotient(above[rows].mean(1), below[rows].mean(1))
    low, high = _percentiles(ratios)
    return Score(_quotient(above.mean(), below.mean()).item(), low, high, prompts * each, prompts)


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp_min(1e-12), torch.zeros_like(above))


def _shape(argument: str, values: Tensor) -> tuple[int, int]:
    if values.ndim != 2 or values.numel() == 0:
        raise InputError(argument, values, "shape [prompts, images per prompt], not empty")
    return values.shape[0], values.shape[1]


def _resampled(prompts: int) -> Tensor:
    return torch.randint(prompts, (_RESAMPLES, prompts), generator=torch.Generator().manual_seed(0))


def _percentiles(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values, values.new_tensor([0.025, 0.975])).tolist()
    return low, high
