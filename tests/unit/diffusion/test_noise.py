import math
from itertools import pairwise

import pytest
import torch

from diffuscope.diffusion.noise import BrownianNoise, PerImageNoise
from refusals import refused

LIKE = torch.zeros(2, 4, 3, 3)


def test_is_the_generators_own_sequence():
    noise = PerImageNoise([32, 7])
    first, second = noise.draw((4, 3, 3)), noise(LIKE, 2.0, 1.0)
    for i, seed in enumerate((32, 7)):
        generator = torch.Generator("cpu").manual_seed(seed)
        assert torch.equal(first[i], torch.randn(4, 3, 3, generator=generator))
        assert torch.equal(second[i], torch.randn(4, 3, 3, generator=generator))


def test_does_not_depend_on_batch_mates_or_dtype():
    alone, together = PerImageNoise([7]), PerImageNoise([5, 7, 9])
    assert torch.equal(alone.draw((4, 3, 3))[0], together.draw((4, 3, 3))[1])
    half = alone(LIKE[:1].half(), 2.0, 1.0)
    assert half.dtype == torch.float16
    assert torch.equal(half[0], together(torch.zeros(3, 4, 3, 3), 2.0, 1.0)[1].half())


def test_is_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        assert PerImageNoise([1]).draw((2,)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    PerImageNoise([1]).draw((4, 3, 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_seed_per_image():
    with refused("like"):
        PerImageNoise([1, 2, 3])(LIKE, 2.0, 1.0)


@pytest.mark.parametrize("seeds", [[-1], [0, 2**64], []])
def test_impossible_seeds_are_an_error(seeds):
    with refused("seeds", seeds):
        PerImageNoise(seeds)


def test_the_largest_seed_works():
    assert PerImageNoise([0, 2**64 - 1]).draw((2,)).shape == (2, 2)


def path(seeds=(3, 8), high=14.6, size=3):
    noise = BrownianNoise(seeds, high)
    return lambda sigma, after: noise(torch.zeros(len(seeds), 4, size, size, dtype=torch.float64), sigma, after)


def test_differences_of_a_path_add_up():
    """W(c) - W(a) = W(c) - W(b) + W(b) - W(a), each of them the noise times the root of its distance."""
    noise = path()
    whole, first, second = noise(9.0, 1.0), noise(9.0, 4.0), noise(4.0, 1.0)
    torch.testing.assert_close(whole * 8**0.5, first * 5**0.5 + second * 3**0.5)
    torch.testing.assert_close(noise(1.0, 9.0), -whole)


def test_a_path_does_not_depend_on_the_order_or_number_of_calls():
    there, back = path(), path()
    levels = [14.6, 10.0, 3.0, 0.7, 0.03, 0.0]
    forth = [there(a, b) for a, b in pairwise(levels)]
    again = [back(a, b) for a, b in reversed(list(pairwise(levels)))]
    assert all(torch.equal(a, b) for a, b in zip(forth, reversed(again), strict=True))


@pytest.mark.parametrize("high", [14.6, 4096.0])
def test_noise_along_a_path_is_normal_and_independent_between_steps(high):
    noise = path(seeds=(1,), high=high, size=50)
    levels = [high, 12.0, 3.0, 0.05, 0.045, 0.0]
    draws = torch.stack([noise(a, b).flatten() for a, b in pairwise(levels)])
    torch.testing.assert_close(draws.cov(), torch.eye(5, dtype=torch.float64), atol=0.04, rtol=0)
    assert draws.mean(1).abs().max() < 0.04
    assert (draws**4).mean(1).sub(3).abs().max() < 0.5


def test_a_path_belongs_to_its_image():
    together, alone = path(seeds=(5, 7, 9)), path(seeds=(7,))
    assert torch.equal(together(3.0, 1.0)[1], alone(3.0, 1.0)[0])
    assert not torch.equal(together(3.0, 1.0)[0], together(3.0, 1.0)[1])
    half = BrownianNoise([7], 14.6)(torch.zeros(1, 4, 3, 3).half(), 3.0, 1.0)
    assert half.dtype == torch.float16
    other_shape = BrownianNoise([7], 14.6)
    assert [other_shape(torch.zeros(1, 2, size, size), 3.0, 1.0).shape[-1] for size in (3, 5)] == [3, 5]


def test_a_path_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    path()(2.0, 1.0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("levels", [(2.0, 2.0), (15.0, 1.0), (1.0, -0.1), (math.nan, 1.0)])
def test_levels_outside_a_path_are_an_error(levels):
    with refused("sigma_next"):
        path()(*levels)


@pytest.mark.parametrize(("seeds", "high"), [([], 1.0), ([-1], 1.0), ([1], 0.0), ([1], math.inf)])
def test_impossible_paths_are_an_error(seeds, high):
    with refused("seeds" if seeds != [1] else "high"):
        BrownianNoise(seeds, high)
    with refused("like"):
        BrownianNoise([1, 2, 3], 1.0)(LIKE, 0.5, 0.1)
