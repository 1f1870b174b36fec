import math

import pytest
import torch

from diffuscope.diffusion.thresholding import thresholded
from refusals import refused

ESTIMATE = torch.tensor([[[[0.5, -2.0], [3.0, 1.0]]], [[[0.1, 0.2], [-0.3, 0.4]]]])


def estimates(x, sigma):
    return ESTIMATE.to(x)


def test_static_thresholding_clips():
    kept = thresholded(estimates, limit=2.0)(ESTIMATE, 1.0)
    assert torch.equal(kept, ESTIMATE.clamp(-2, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_thresholded_divides_by_each_images_quantile(dtype):
    kept = thresholded(estimates, ratio=1.0, max_value=2.5)(ESTIMATE.to(dtype), 1.0)
    assert kept.dtype == dtype
    torch.testing.assert_close(kept[0], ESTIMATE[0].to(dtype).clamp(-2.5, 2.5) / 2.5)
    assert torch.equal(kept[1], ESTIMATE[1].to(dtype))  # within [-1, 1] nothing changes


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ratio", {"ratio": 1.1}),
        ("ratio", {"ratio": math.nan}),
        ("max_value", {"max_value": 0.5}),
        ("max_value", {"max_value": math.inf}),
        ("limit", {"limit": 0.0}),
        ("limit", {"limit": 1.0, "max_value": 2.0}),
    ],
)
def test_impossible_thresholds_are_an_error(name, options):
    with refused(name):
        thresholded(estimates, **options)


def test_without_options_the_denoiser_is_itself():
    assert thresholded(estimates) is estimates
