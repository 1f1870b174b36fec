from importlib.resources import files

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor

from diffuscope.models.upscaler import FACTOR, Upscaler

REACH = 18  # pixels that one output pixel sees to each side: one for each 3 x 3 convolution


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    weights = load((files("diffuscope") / "assets" / "upscaler" / "animevideov3_x4.safetensors").read_bytes())
    network = Upscaler()
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.requires_grad_(False)


def disc(size: int, centre: float, scale: int = 1) -> Tensor:
    """An orange disc on blue, [1,3,size * scale,size * scale], each pixel the mean of 8 x 8 samples (or 2 x 2)."""
    fine = torch.arange(size * 8, dtype=torch.float32) / 8 + 1 / 16
    inside = ((fine[:, None] - centre) ** 2 + (fine[None] - centre) ** 2 < (size / 3) ** 2).float()[None, None]
    mask = F.avg_pool2d(inside, 8 // scale)
    orange, blue = (torch.tensor(colour).view(1, 3, 1, 1) for colour in ((1.0, 0.5, 0.1), (0.1, 0.2, 0.6)))
    return mask * orange + (1 - mask) * blue


def test_four_times_the_pixels_and_the_same_again(upscaler: Upscaler) -> None:
    pixels = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    first = upscaler(pixels)
    assert first.shape == (2, 3, 36, 56)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, upscaler(pixels))
    assert torch.equal(pixels, before)


def test_the_shipped_weights_fit_exactly() -> None:
    weights = load((files("diffuscope") / "assets" / "upscaler" / "animevideov3_x4.safetensors").read_bytes())
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in Upscaler().state_dict().items()
    }
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_golden(upscaler: Upscaler) -> None:
    """Recorded: the channels' means, and one row through the rim, of a disc of 16 pixels upscaled in float32."""
    picture = upscaler(disc(16, 8.0))[0]
    means = torch.tensor([0.40899, 0.30513, 0.4154])
    row = torch.tensor(
        [0.0455, 0.0954, 0.0965, 0.1491, 0.2023, 0.2974, 0.57, 0.8345, 0.9733, 1.0, 0.9584, 1.0, 1.0, 1.0, 1.0, 1.0]
    )
    torch.testing.assert_close(picture.mean((1, 2)), means, rtol=0, atol=1e-4)
    torch.testing.assert_close(picture[0, 32, 4:20], row, rtol=0, atol=1e-3)


def test_sharper_than_bicubic_and_in_its_place(upscaler: Upscaler) -> None:
    small, large = disc(32, 15.3), disc(32, 15.3, FACTOR)
    result = upscaler(small)
    bicubic = F.interpolate(small, scale_factor=FACTOR, mode="bicubic").clamp(0, 1)
    assert result.diff().square().mean() > 1.5 * bicubic.diff().square().mean()
    assert (F.avg_pool2d(result, FACTOR) - small).abs().mean() < 0.02
    error = (result - large).square().mean()
    assert all(error < (result.roll(shift, axis) - large).square().mean() for shift in (-1, 1) for axis in (2, 3))


@pytest.mark.parametrize("colour", [(1.0, 1.0, 1.0), (0.9, 0.2, 0.1), (0.1, 0.3, 0.8), (0.0, 0.0, 0.0)])
def test_a_flat_colour_keeps_its_hue_up_to_the_rim(upscaler: Upscaler, colour: tuple[float, float, float]) -> None:
    pixels = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 24, 24)
    torch.testing.assert_close(
        upscaler(pixels), pixels.repeat_interleave(4, 2).repeat_interleave(4, 3), rtol=0, atol=0.02
    )


def test_a_piece_is_upscaled_as_within_the_whole(upscaler: Upscaler) -> None:
    whole = torch.rand(1, 3, 48, 44, generator=torch.Generator().manual_seed(1))
    piece = upscaler(whole[..., 4:44, :])
    inner = slice((4 + REACH) * FACTOR, (44 - REACH) * FACTOR)
    torch.testing.assert_close(
        piece[..., REACH * FACTOR : -REACH * FACTOR, :], upscaler(whole)[..., inner, :], rtol=0, atol=1e-5
    )


def test_a_picture_does_not_depend_on_its_batch_mates(upscaler: Upscaler) -> None:
    pixels = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(upscaler(pixels)[1:2], upscaler(pixels[1:2]), rtol=0, atol=1e-5)


def test_bfloat16_and_channels_last_agree_with_float32(upscaler: Upscaler) -> None:
    pixels = disc(16, 7.5)
    fast = Upscaler()
    fast.load_state_dict(upscaler.state_dict())
    fast.to(torch.bfloat16, memory_format=torch.channels_last)
    result = fast(pixels)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, upscaler(pixels), rtol=0, atol=0.03)
