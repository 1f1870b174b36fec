"""Similarity: the shipped towers tell pictures apart by their texts; the loss has a gradient that lowers it."""

import math

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.images import to_pixels
from diffuscope.lens.similarity import Similarity, great_circle, load_similarity


@pytest.fixture(scope="module")
def similarity() -> Similarity:
    return load_similarity()


def painted(colour: str, shape: str) -> Tensor:
    """[1,3,128,128] one flat shape on white, pixels in [0,1]."""
    picture = Image.new("RGB", (128, 128), "white")
    getattr(ImageDraw.Draw(picture), shape)((24, 24, 104, 104), fill=colour)
    return to_pixels([picture]) / 2 + 0.5


def test_a_picture_is_nearest_to_its_own_text(similarity: Similarity) -> None:
    pictures = torch.cat([painted("red", "ellipse"), painted("blue", "rectangle")])
    with torch.no_grad():
        cosines = similarity(pictures, ["a red circle", "a blue square"])
    assert cosines.shape == (2, 2)
    assert cosines.argmax(1).tolist() == [0, 1]
    assert cosines.abs().max() <= 1


def test_vectors_are_unit_vectors_and_one_text_is_one_row(similarity: Similarity) -> None:
    with torch.no_grad():
        for vectors in (similarity.texts("a cat"), similarity.pictures(painted("red", "ellipse"))):
            assert vectors.shape == (1, 320)
            assert float(vectors.norm()) == pytest.approx(1)


def test_a_step_down_the_gradient_comes_nearer(similarity: Similarity) -> None:
    loss = similarity.loss("a green tree")
    picture = painted("red", "ellipse").requires_grad_()
    before = loss(picture)
    (gradient,) = torch.autograd.grad(before, picture)
    after = loss((picture - 0.001 * gradient / gradient.abs().max()).detach())
    assert float(after) < float(before.detach())
    assert float(loss(picture.detach())) == float(before.detach()), "the cuts are drawn once"


def test_the_weight_is_a_factor_and_cuts_are_needed(similarity: Similarity) -> None:
    picture = painted("red", "ellipse")
    once, twice = (float(similarity.loss("a cat", weight=weight)(picture)) for weight in (8.0, 16.0))
    assert twice == pytest.approx(2 * once)
    with pytest.raises(InputError, match="0 cuts"):
        similarity.loss("a cat", cuts=0)


def test_great_circles_are_angles() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    angles = great_circle(first, torch.tensor([[1.0, 0.0]]))
    assert angles.tolist() == pytest.approx([0.0, math.pi / 2, math.pi], abs=1e-3)
