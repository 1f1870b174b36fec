import numpy as np
import pytest
import torch
from scipy import ndimage

from diffuscope.evaluate.counting import components, count_things


def image(mask: torch.Tensor) -> torch.Tensor:
    """[3,H,W] uint8: black where ``mask`` is, on white."""
    return (~mask).to(torch.uint8).expand(3, -1, -1) * 255


def test_connected_parts_are_those_of_another_implementation():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 40, 40, generator=generator) < torch.tensor([0.1, 0.3, 0.4, 0.45, 0.6, 0.0]).view(-1, 1, 1)
    for mask, labels in zip(masks, components(masks), strict=True):
        expected, count = ndimage.label(mask.numpy(), np.ones((3, 3)))
        assert len(labels.unique()) - bool((labels == 0).any()) == count
        pairs = {(int(a), int(b)) for a, b in zip(labels.flatten(), expected.flatten(), strict=True)}
        assert len(pairs) == len(labels.unique())  # one number of theirs for each of ours


def test_a_long_part_is_one():
    snake = torch.zeros(1, 31, 31, dtype=torch.bool)
    snake[0, ::2] = True
    snake[0, 1::4, -1] = snake[0, 3::4, 0] = True
    assert len(components(snake).unique()) == 2


@pytest.mark.parametrize("number", range(10))
def test_things_are_counted_and_crumbs_are_not(number):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    for i in range(number):
        mask[4 + 20 * (i // 3) : 16 + 20 * (i // 3), 4 + 20 * (i % 3) : 16 + 20 * (i % 3)] = True
    if number:
        mask[62, 2] = True
    assert count_things(image(mask)[None].repeat(2, 1, 1, 1), chunk=1).tolist() == [number, number]
