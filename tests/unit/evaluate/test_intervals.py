import pytest
import torch

from diffuscope.evaluate.intervals import mean, proportion, ratio
from refusals import refused


def test_independent_pictures_give_wilsons_interval():
    """8 of 10: (0.4902, 0.9433), as in Newcombe 1998's method 3."""
    score = proportion(torch.tensor([True] * 8 + [False] * 2)[:, None])
    assert (score.value, score.pictures, score.prompts) == (0.8, 10, 10)
    assert score.low == pytest.approx(0.4902, abs=1e-4)
    assert score.high == pytest.approx(0.9433, abs=1e-4)


def test_pictures_of_one_prompt_count_as_one_where_they_always_agree():
    right = torch.rand(40, 1, generator=torch.Generator().manual_seed(0)) < 0.6
    alone, repeated = proportion(right), proportion(right.expand(40, 12))
    assert repeated.pictures == 480
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high), abs=5e-3)


def test_independent_pictures_of_a_prompt_narrow_the_interval():
    right = torch.rand(200, 20, generator=torch.Generator().manual_seed(0)) < 0.6
    many, one = proportion(right), proportion(right.reshape(-1, 1))
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.15)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_score_without_any_spread_is_only_as_sure_as_its_prompts(value):
    score = proportion(torch.full((10, 50), value))
    assert score.value == value
    assert score.high - score.low == pytest.approx(0.2775, abs=1e-3)


def test_wilsons_interval_holds_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(3)
    ability = 0.5 + 0.4 * torch.rand(400, 60, 1, generator=generator)  # of each of 60 prompts
    right = torch.rand(400, 60, 8, generator=generator) < ability
    held = [score.low <= 0.7 <= score.high for score in map(proportion, right)]
    assert 0.91 < sum(held) / 400 < 0.99


def test_the_mean_lies_in_its_interval_which_narrows_with_prompts():
    values = torch.randn(400, 2, generator=torch.Generator().manual_seed(1)) + 30
    wide, narrow = mean(values[:50]), mean(values)
    assert narrow.low < narrow.value < narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / 800**0.5, rel=0.15)
    assert mean(values) == narrow


def test_a_ratio_compares_the_same_prompts():
    right = torch.rand(100, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    same = ratio(right, right)
    assert same.value == same.low == same.high == 1.0
    assert ratio(right, torch.zeros(100, 1)).value == 0.0
    with refused("denominator"):
        ratio(right, right[:99])


def test_nothing_has_no_score():
    with refused("correct"):
        proportion(torch.zeros(0, 4))
