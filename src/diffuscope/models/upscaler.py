"""The upscaler: Real-ESRGAN's compact network, four times as many pixels along each side.

Wang et al. 2021 (arXiv 2107.10833), the "animevideov3" weights: a stack of convolutions at the input's size, whose
last one writes the 4 x 4 pixels that each pixel becomes, added to the picture enlarged by repetition.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 4
MARGIN = 4  # the zeros around a picture would darken its rim; after 4 pixels of repeated border nothing is left of it


class Upscaler(nn.Module):
    """Pictures four times as high and wide. 0.62 million parameters; what it sees is 37 pixels across.

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
        """Pixels [B,3,H,W] in [0,1] -> [B,3,4H,4W] in [0,1], of the same type. Not modified.

        The convolutions run in the weights' type, whatever the pixels': a network in bfloat16 rounds the added detail
        alone.
        """
        x = F.pad(pixels, (MARGIN,) * 4, mode="replicate").to(self.out.weight.dtype)
        for layer, slope in zip(self.layers, self.slopes, strict=True):
            x = slope(layer(x))
        detail = F.pixel_shuffle(self.out(x)[..., MARGIN:-MARGIN, MARGIN:-MARGIN], FACTOR)
        return (F.interpolate(pixels, scale_factor=FACTOR, mode="nearest") + detail.to(pixels.dtype)).clamp(0, 1)
