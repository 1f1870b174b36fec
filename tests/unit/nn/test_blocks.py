"""The shared blocks: shapes, sizes and padding."""

import pytest
import torch

from diffuscope.nn.blocks import Downsample, ResidualBlock, Upsample, image, tokens


def test_tokens_and_image_are_inverse_views_in_either_memory_format():
    for x in (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        back = image(tokens(x), x)
        assert torch.equal(back, x)
        assert tokens(x).shape == (2, 20, 3)
        assert back.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(("corner", "odd"), [(False, 4), (True, 3)])
def test_downsample_halves_and_rounds(corner, odd):
    downsample = Downsample(2, corner=corner)
    assert downsample(torch.zeros(1, 2, 8, 6)).shape == (1, 2, 4, 3)
    assert downsample(torch.zeros(1, 2, 7, 7)).shape == (1, 2, odd, odd)


def test_corner_padding_is_below_and_to_the_right():
    downsample = Downsample(1, corner=True)
    torch.nn.init.zeros_(downsample.conv.bias)
    torch.nn.init.zeros_(downsample.conv.weight)
    downsample.conv.weight.data[0, 0, 0, 0] = 1  # reads the upper left of each window
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(downsample(x)[0, 0], x[0, 0, ::2, ::2])


def test_upsample_takes_a_size():
    upsample = Upsample(2)
    assert upsample(torch.zeros(1, 2, 3, 4)).shape == (1, 2, 6, 8)
    assert upsample(torch.zeros(1, 2, 3, 4), (5, 7)).shape == (1, 2, 5, 7)


def test_residual_block_whose_last_convolution_is_zero_is_the_identity():
    block = ResidualBlock(4, 4, 2)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(block(x), x)
