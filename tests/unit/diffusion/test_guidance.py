import math

import pytest
import torch

from diffuscope.diffusion.guidance import guided, guided_in_one
from refusals import refused

TOLERANCE = 1e-6
"""Two calls against one of a doubled batch, float32 on the CPU: only the kernels' order of sums may differ."""

WEIGHT = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)) / 4
X = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))


def rows(weight):
    return lambda x, sigma: torch.einsum("oi,bihw->bohw", weight, x) / (1 + sigma)


uncond, cond = rows(WEIGHT[0]), rows(WEIGHT[1])


def both(x, sigma):
    weights = WEIGHT.repeat_interleave(len(x) // 2, 0)
    return torch.einsum("boi,bihw->bohw", weights, x) / (1 + sigma)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 5.0, 7.5, -1.0])
def test_one_batch_equals_two_calls(scale):
    two, one = guided(cond, uncond, scale)(X, 2.0), guided_in_one(both, scale)(X, 2.0)
    torch.testing.assert_close(one, two, rtol=TOLERANCE, atol=TOLERANCE)
    expected = uncond(X, 2.0) + scale * (cond(X, 2.0) - uncond(X, 2.0))
    torch.testing.assert_close(two, expected, rtol=1e-5, atol=1e-6)


def test_scale_one_is_one_plain_call():
    assert guided(cond, uncond, 1.0) is cond
    assert guided(cond, uncond, 1) is cond


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_impossible_scale_is_an_error(scale):
    for make in (lambda: guided(cond, uncond, scale), lambda: guided_in_one(both, scale)):
        with refused("scale"):
            make()
