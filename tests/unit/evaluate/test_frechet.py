import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from diffuscope.evaluate.frechet import frechet_distance
from refusals import refused


def images(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + shift


def test_it_is_the_formula_with_a_matrix_root():
    ours, theirs = images(40, 0), images(60, 1, 0.7)
    one, two = (np.cov(x.double().numpy(), rowvar=False) for x in (ours, theirs))
    apart = (ours.double().mean(0) - theirs.double().mean(0)).square().sum().item()
    root = sqrtm(one @ two).real
    assert frechet_distance(ours, theirs) == pytest.approx(apart + np.trace(one + two - 2 * root), rel=1e-6)


def test_fewer_pictures_than_features_are_no_obstacle():
    features = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_a_shift_alone_is_its_square():
    features = images(30, 2)
    assert frechet_distance(features, features + 2.0) == pytest.approx(6 * 4.0, rel=1e-5)


def test_one_image_is_refused():
    with refused("first"):
        frechet_distance(images(1, 0), images(9, 0))
