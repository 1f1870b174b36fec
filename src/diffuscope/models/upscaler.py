"""The upscaler: Real-ESRGAN's compact network, four times as many pixels along each side.

Wang et al. 2021 (arXiv 2107.10833), the "animevideov3" weights: a stack of convolutions at the input's size and a 4x
pixel shuffle, added to the nearest-neighbour upsampled image.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 4
MARGIN = 4  # zero padding would darken the border; 4 pixels of replicated border keep that outside the image


class Upscaler(nn.Module):
    """4x super-resolution. 0.62 million parameters, a receptive field of 37 pixels.

    Args:
        width: channels between the convolutions.
        layers: convolutions between the first and the last.
    """

    def __init__(self, width: int = 64, layers: int = 16) -> None:
        super().__init__()
        channels = [3] + [width] * (layers + 1)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.slopes = nn.ModuleList(nn.PReLU(width) for _ in self.layers)
        self.out = nn.Conv2d(width, 3 * FACTOR**2, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in [0,1] -> [B,3,4H,4W] in [0,1], of the same dtype. Not modified.

        The convolutions run in the weights' dtype: a network in bfloat16 rounds only the added detail.
        """
        x = F.pad(pixels, (MARGIN,) * 4, mode="replicate").to(self.out.weight.dtype)
        for layer, slope in zip(self.layers, self.slopes, strict=True):
            x = slope(layer(x))
        detail = F.pixel_shuffle(self.out(x)[..., MARGIN:-MARGIN, MARGIN:-MARGIN], FACTOR)
        return (F.interpolate(pixels, scale_factor=FACTOR, mode="nearest") + detail.to(pixels.dtype)).clamp(0, 1)
