import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from diffuscope.errors import InputError
from diffuscope.evaluate.frechet import frechet_distance


def crowd(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + shift


def test_it_is_the_formula_with_a_matrix_root():
    ours, theirs = crowd(40, 0), crowd(60, 1, 0.7)
    one, two = (np.cov(x.double().numpy(), rowvar=False) for x in (ours, theirs))
    apart = (ours.double().mean(0) - theirs.double().mean(0)).square().sum().item()
    root = sqrtm(one @ two).real
    assert frechet_distance(ours, theirs) == pytest.approx(apart + np.trace(one + two - 2 * root), rel=1e-6)


def test_fewer_pictures_than_features_are_no_obstacle():
    features = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_a_shift_alone_is_its_square():
    features = crowd(30, 2)
    assert frechet_distance(features, features + 2.0) == pytest.approx(6 * 4.0, rel=1e-5)


def test_one_picture_is_no_crowd():
    with pytest.raises(InputError, match="at least two"):
        frechet_distance(crowd(1, 0), crowd(9, 0))
