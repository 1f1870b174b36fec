"""The judge of digits, and what counts as copied."""

import pytest
import torch

from diffuscope.data.digits import LabelledImages, load_digits, split
from diffuscope.evaluate.digits import Examiner, nearest


@pytest.fixture(scope="module")
def parts():
    """300 digits to learn from and 100 others, quick for the judge."""
    learned, held_out = split(load_digits(), 2500)
    some = torch.arange(0, 2500, 10)
    return learned[some], held_out[some]


@pytest.fixture(scope="module")
def examiner(parts):
    return Examiner(*parts)


def test_the_judge_reads_real_digits_and_no_noise(examiner, parts):
    assert 0.7 < examiner.real.value < 1
    exam = examiner.exam(parts[1].pixels, parts[1].labels)
    assert exam.as_asked == exam.real
    assert examiner.agreement(torch.rand(100, 1, 28, 28), torch.arange(100) % 10) < 0.3


def test_copies_are_found_even_if_shifted(examiner, parts):
    copies = torch.roll(parts[0].pixels, (1, -2), (2, 3))
    assert examiner.exam(copies, parts[0].labels).memorised > 0.99
    assert examiner.exam(parts[1].pixels, parts[1].labels).memorised == pytest.approx(0.01, abs=0.005)


def test_distance_to_the_nearest_is_over_all_shifts():
    learned = torch.zeros(3, 1, 28, 28)
    learned[1, 0, 10, 10] = 1
    asked = torch.zeros(2, 1, 28, 28)
    asked[0, 0, 12, 8] = 1
    asked[1, 0, 10, 10] = asked[1, 0, 20, 20] = 1
    torch.testing.assert_close(nearest(asked, learned), torch.tensor([0.0, 1 / 28]))


def test_real_pictures_are_near_and_other_ones_far(examiner, parts):
    learned = parts[0]
    other = LabelledImages(learned.pixels.flip(2), learned.labels)
    real, far = examiner.distance(learned.pixels), examiner.distance(other.pixels)
    assert abs(real) < 0.2 * far


def test_blur_is_found_by_variety_and_by_frechet(examiner, parts):
    """Each digit is replaced by the mean of its class."""
    pixels, labels = parts[0].pixels, parts[0].labels
    means = torch.stack([pixels[labels == label].mean(0) for label in range(10)])[labels]
    assert examiner.diversity(means, labels) == pytest.approx(0, abs=1e-9)
    assert examiner.diversity(pixels, labels) > 1
    assert examiner.frechet(means) > 3 * examiner.frechet(pixels)
