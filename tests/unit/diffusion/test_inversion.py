"""DDIM inversion on an exact Gaussian: first order by itself, exact with fixed points."""

import pytest
import torch

from diffuscope.diffusion.inversion import ddim_inversion
from diffuscope.diffusion.samplers import SAMPLERS, final
from refusals import refused

VARIANCE = 1.7
X0 = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * VARIANCE**0.5


def gaussian(x, sigma):
    """The exact Denoiser of zero-mean Gaussian latents."""
    return x * (VARIANCE / (VARIANCE + sigma**2))


def levels(steps):
    return [14.6 * (0.03 / 14.6) ** (i / (steps - 1)) for i in range(steps)] + [0.0]


def round_trip(steps, refine=0):
    sigmas = levels(steps)
    top = final(ddim_inversion(gaussian, X0, sigmas, refine=refine))
    return float((final(SAMPLERS["ddim"](gaussian, top, sigmas)) - X0).abs().max())


def test_the_round_trip_converges_with_first_order():
    errors = [round_trip(steps) for steps in (20, 40, 80)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.2)


def test_fixed_points_make_the_round_trip_exact():
    assert round_trip(20) > 1e-2
    assert round_trip(20, refine=60) < 1e-9


def test_the_top_is_where_the_exact_flow_leads():
    """The probability flow of a Gaussian keeps x / sqrt(variance + sigma^2)."""
    sigmas = levels(400)
    top = final(ddim_inversion(gaussian, X0, sigmas))
    expected = X0 * ((VARIANCE + sigmas[0] ** 2) / VARIANCE) ** 0.5
    torch.testing.assert_close(top, expected, rtol=0.02, atol=0)


def test_steps_mirror_the_samplers():
    before = X0.clone()
    steps = list(ddim_inversion(gaussian, X0, levels(5)))
    assert torch.equal(X0, before)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert [step.sigma for step in steps] == levels(5)[:-1][::-1]


def test_the_caller_may_assign_x():
    steps = ddim_inversion(gaussian, X0, levels(3))
    next(steps).x = X0 * 0
    assert torch.equal(next(steps).x, X0 * 0)


@pytest.mark.parametrize(("sigmas", "refine"), [([1.0], 0), ([1.0, 2.0], 0), ([1.0, -1.0], 0), ([2.0, 1.0], -1)])
def test_what_cannot_be_is_refused(sigmas, refine):
    with refused("refine" if refine else "sigmas"):
        ddim_inversion(gaussian, X0, sigmas, refine=refine)
