"""Guidance variants: each is plain guidance where its own parameter says so, and keeps what it promises to keep."""

import math

import pytest
import torch

from diffuscope.diffusion.guidance import (
    composed,
    each_by,
    falling,
    guided,
    guided_by,
    guided_in_one,
    interval,
    norm_rescale,
    rescaled,
)
from diffuscope.diffusion.prediction import training_target
from diffuscope.errors import InputError
from refusals import refused

X = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
U, T = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
SIGMA = 2.0


def uncond(x, sigma):
    return x * 0.3 + U


def cond(x, sigma):
    return x * 0.2 + T


def noise(x0):
    return (X - x0) / SIGMA


def lengths(x):
    return x.flatten(1).norm(dim=1)


@pytest.mark.parametrize("kind", ["whole", "both"])
def test_whole_predictions_keep_the_length_of_the_unconditional_one(kind):
    found = guided(cond, uncond, norm_rescale(7.5, kind))(X, SIGMA)
    torch.testing.assert_close(lengths(noise(found)), lengths(noise(uncond(X, SIGMA))))


def test_whole_has_the_direction_of_plain_guidance():
    found = noise(guided(cond, uncond, norm_rescale(7.5, "whole"))(X, SIGMA))
    plain = noise(guided(cond, uncond, 7.5)(X, SIGMA))
    torch.testing.assert_close(found / lengths(found)[:, None, None, None], plain / lengths(plain)[:, None, None, None])


def test_updates_have_a_length_by_the_scale_and_the_direction_of_the_difference():
    base = noise(uncond(X, SIGMA))
    update = noise(guided(cond, uncond, norm_rescale(0.2, "update"))(X, SIGMA)) - base
    torch.testing.assert_close(lengths(update), 0.2 * lengths(base))
    difference = noise(cond(X, SIGMA)) - base
    torch.testing.assert_close(update * (lengths(difference) / lengths(update))[:, None, None, None], difference)


def test_an_update_of_nothing_stays_finite():
    assert torch.equal(
        guided(uncond, uncond, norm_rescale(0.2, "update"))(X, SIGMA).isfinite().all(), torch.tensor(True)
    )


def test_lengths_are_those_of_the_prediction_that_is_named():
    found = guided(cond, uncond, norm_rescale(7.5, "both", "x0"))(X, SIGMA)
    torch.testing.assert_close(lengths(found), lengths(uncond(X, SIGMA)))
    found = guided(cond, uncond, norm_rescale(7.5, "whole", "v"))(X, SIGMA)
    velocities = [training_target("v", x0, noise(x0), SIGMA) for x0 in (found, uncond(X, SIGMA))]
    torch.testing.assert_close(*map(lengths, velocities))


def test_each_image_is_joined_by_its_own_rule_as_if_it_were_alone():
    rules = [norm_rescale(7.5, "whole"), norm_rescale(0.2, "update"), rescaled(7.5)]
    found = guided(cond, uncond, each_by(rules))(X, SIGMA)
    for k, rule in enumerate(rules):
        torch.testing.assert_close(found[k], guided(cond, uncond, rule)(X, SIGMA)[k], rtol=0, atol=0)


def test_rules_are_as_many_as_images():
    with refused("rules"):
        guided(cond, uncond, each_by([rescaled(7.5)]))(X, SIGMA)


@pytest.mark.parametrize("rule", [norm_rescale(0.2, "both"), rescaled(7.5)])
def test_one_batch_is_the_same_as_two_calls(rule):
    def both(x, sigma):
        first, second = x.chunk(2)
        return torch.cat([uncond(first, sigma), cond(second, sigma)])

    assert torch.equal(guided_in_one(both, rule)(X, SIGMA), guided(cond, uncond, rule)(X, SIGMA))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_rescaling_keeps_the_deviation_and_at_phi_0_does_nothing(prediction):
    plain = guided(cond, uncond, 7.5)(X, SIGMA)
    torch.testing.assert_close(guided(cond, uncond, rescaled(7.5, 0.0, prediction))(X, SIGMA), plain)
    if prediction == "epsilon":
        found = noise(guided(cond, uncond, rescaled(7.5, 1.0))(X, SIGMA))
        torch.testing.assert_close(found.flatten(1).std(1), noise(cond(X, SIGMA)).flatten(1).std(1))


def test_scale_one_rescaled_is_the_conditional_estimate():
    for phi in (0.0, 0.7, 1.0):
        torch.testing.assert_close(guided(cond, uncond, rescaled(1.0, phi))(X, SIGMA), cond(X, SIGMA))


def test_a_constant_schedule_is_plain_guidance_and_one_costs_one_call():
    assert torch.equal(guided_by(cond, uncond, lambda _: 5.0)(X, SIGMA), guided(cond, uncond, 5.0)(X, SIGMA))

    def refuse(x, sigma):
        raise AssertionError("called in vain")

    scale = interval(7.5, 1.0, 3.0)
    assert [scale(sigma) for sigma in (0.5, 1.0, 1.5, 3.0, 4.0)] == [1.0, 1.0, 7.5, 7.5, 1.0]
    assert torch.equal(guided_by(cond, refuse, scale)(X, 9.0), cond(X, 9.0))


def test_falling_scales_are_even_in_the_steps():
    sigmas = [10.0, 6.0, 3.0, 1.0, 0.5, 0.0]
    scale = falling(7.5, 0.0, sigmas)
    assert [scale(sigma) for sigma in sigmas[:-1]] == pytest.approx([7.5, 5.625, 3.75, 1.875, 0.0])
    assert scale(20.0) == 7.5
    assert scale(0.1) == 0.0
    assert scale(8.0) == pytest.approx((7.5 + 5.625) / 2)
    cosine = falling(7.5, 0.0, sigmas, "cosine")
    assert [cosine(sigma) for sigma in (10.0, 3.0, 0.5)] == pytest.approx([7.5, 3.75, 0.0])
    assert cosine(6.0) > scale(6.0)
    assert falling(7.5, 0.0, [4.0, 0.0])(4.0) == 7.5


def test_composition_of_one_part_is_guidance_and_parts_add_up():
    torch.testing.assert_close(composed(uncond, [(cond, 5.0)])(X, SIGMA), guided(cond, uncond, 5.0)(X, SIGMA))
    expected = U + 5 * (T - U) - 2 * (0.5 * U - U)
    parts = [(lambda *_: T, 5.0), (lambda *_: 0.5 * U, -2.0)]
    torch.testing.assert_close(composed(lambda *_: U, parts)(X, SIGMA), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: norm_rescale(math.nan, "whole"),
        lambda: norm_rescale(1.0, "none"),
        lambda: rescaled(1.0, 1.5),
        lambda: interval(7.5, 3.0, 1.0),
        lambda: falling(7.5, 0.0, [0.0]),
        lambda: falling(math.inf, 0.0, [1.0]),
        lambda: composed(uncond, []),
        lambda: composed(uncond, [(cond, math.nan)]),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(InputError):
        make()
