import pytest
import torch

from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.errors import InputError

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
    with pytest.raises(InputError, match="batch of 2 images but 3 seeds"):
        PerImageNoise([1, 2, 3])(LIKE, 2.0, 1.0)


@pytest.mark.parametrize("seeds", [[-1], [0, 2**64], []])
def test_impossible_seeds_are_an_error(seeds):
    with pytest.raises(InputError, match="seed"):
        PerImageNoise(seeds)


def test_the_largest_seed_works():
    assert PerImageNoise([0, 2**64 - 1]).draw((2,)).shape == (2, 2)
