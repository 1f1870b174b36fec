"""The shared blocks: shapes, sizes and padding."""

import pytest
import torch

from diffuscope.nn.blocks import Grow, ResidualBlock, Shrink, image, tokens


def test_tokens_and_image_are_inverse_views_in_either_memory_format():
    for x in (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        back = image(tokens(x), x)
        assert torch.equal(back, x)
        assert tokens(x).shape == (2, 20, 3)
        assert back.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(("corner", "odd"), [(False, 4), (True, 3)])
def test_shrink_halves_and_says_how_it_rounds(corner, odd):
    shrink = Shrink(2, corner=corner)
    assert shrink(torch.zeros(1, 2, 8, 6)).shape == (1, 2, 4, 3)
    assert shrink(torch.zeros(1, 2, 7, 7)).shape == (1, 2, odd, odd)


def test_corner_padding_is_below_and_to_the_right():
    shrink = Shrink(1, corner=True)
    torch.nn.init.zeros_(shrink.conv.bias)
    torch.nn.init.zeros_(shrink.conv.weight)
    shrink.conv.weight.data[0, 0, 0, 0] = 1  # reads the upper left of each window
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(shrink(x)[0, 0], x[0, 0, ::2, ::2])


def test_grow_takes_the_size_it_is_given():
    grow = Grow(2)
    assert grow(torch.zeros(1, 2, 3, 4)).shape == (1, 2, 6, 8)
    assert grow(torch.zeros(1, 2, 3, 4), (5, 7)).shape == (1, 2, 5, 7)


def test_residual_block_with_silent_convolutions_is_the_identity():
    block = ResidualBlock(4, 4, 2)
    torch.nn.init.zeros_(block.conv_out.weight)
    torch.nn.init.zeros_(block.conv_out.bias)
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(block(x), x)
