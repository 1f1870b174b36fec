"""Scores with 95% intervals that know how many different prompts stand behind the pictures."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffuscope.errors import InputError

_Z = 1.959963984540054
_RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """A number and the 95% interval it lies in. Pictures of one prompt are no independent evidence."""

    value: float
    low: float
    high: float
    pictures: int
    prompts: int


def proportion(right: Tensor) -> Score:
    """How often ``right`` [P,S] (P prompts, S pictures each) is true: Wilson's interval (1927) on an effective count.

    The effective count is p (1 - p) / v, where v is the variance of the mean over prompts (Kish's design effect, 1965).
    It lies between P, as if the pictures of a prompt were one, and P * S, as if they were independent.
    """
    prompts, each = _shape(right)
    means = right.double().mean(1)
    value = means.mean().item()
    spread = means.var().item() / prompts if prompts > 1 else 0.0
    count = value * (1 - value) / spread if spread > 0 else 0.0
    count = min(max(count, prompts), prompts * each)
    z2 = _Z**2 / count
    middle = (value + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * (value * (1 - value) / count + z2 / (4 * count)) ** 0.5
    return Score(value, max(0.0, middle - half), min(1.0, middle + half), prompts * each, prompts)


def mean(values: Tensor) -> Score:
    """The mean of ``values`` [P,S] with the bootstrap's percentile interval over prompts (Efron 1979)."""
    prompts, each = _shape(values)
    means = values.double().mean(1).cpu()
    low, high = _percentiles(means[_resampled(prompts)].mean(1))
    return Score(means.mean().item(), low, high, prompts * each, prompts)


def ratio(top: Tensor, bottom: Tensor) -> Score:
    """mean(top) / mean(bottom) of ``top`` [P,S] and ``bottom`` [P,T], whose prompts are the same and drawn together.

    The interval is the bootstrap's. Where ``bottom`` is zero the ratio is 0.
    """
    prompts, each = _shape(top)
    if len(bottom) != prompts:
        raise InputError(f"a ratio of {prompts} prompts to {len(bottom)}; give values of the same prompts")
    rows = _resampled(prompts)
    above, below = top.double().mean(1).cpu(), bottom.double().mean(1).cpu()
    ratios = _quotient(above[rows].mean(1), below[rows].mean(1))
    low, high = _percentiles(ratios)
    return Score(_quotient(above.mean(), below.mean()).item(), low, high, prompts * each, prompts)


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp_min(1e-12), torch.zeros_like(above))


def _shape(values: Tensor) -> tuple[int, int]:
    if values.ndim != 2 or values.numel() == 0:
        raise InputError(f"values of shape {list(values.shape)}; give [prompts, pictures of each], at least one")
    return values.shape[0], values.shape[1]


def _resampled(prompts: int) -> Tensor:
    return torch.randint(prompts, (_RESAMPLES, prompts), generator=torch.Generator().manual_seed(0))


def _percentiles(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values, values.new_tensor([0.025, 0.975])).tolist()
    return low, high
