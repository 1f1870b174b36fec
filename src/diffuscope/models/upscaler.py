"""The upscaler: Real-ESRGAN's compact network, four times as many pixels along each side.

Wang et al. 2021 (arXiv 2107.10833), the "animevideov3" weights: a stack of convolutions at the input's size and a 4x
pixel shuffle, added to the nearest-neighbour upsampled image.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.types import Tap, tapped

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

    def forward(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        """Pixels [B,3,H,W] in [0,1] -> [B,3,4H,4W] in [0,1], of the same dtype. Not modified.

        The convolutions run in the weights' dtype: a network in bfloat16 rounds only the added detail.
        """
        x = F.pad(pixels, (MARGIN,) * 4, mode="replicate").to(self.out.weight.dtype)
        for i, (layer, slope) in enumerate(zip(self.layers, self.slopes, strict=True)):
            x = tapped(tap, f"layers.{i}", slope(layer(x)))
        detail = F.pixel_shuffle(self.out(x)[..., MARGIN:-MARGIN, MARGIN:-MARGIN], FACTOR)
        return (F.interpolate(pixels, scale_factor=FACTOR, mode="nearest") + detail.to(pixels.dtype)).clamp(0, 1)

    def strips(self, pixels: Tensor, most: int, tap: Tap | None = None) -> Iterator[Tensor]:
        """The same in strips of rows, from above, each of at most ``most`` pixels [B,3,h,W]; equal up to rounding.

        Each is computed with as many rows around it as the convolutions see.
        """
        height, rows, around = pixels.shape[2], max(1, most // pixels.shape[3]), len(self.layers) + 1
        for top in range(0, height, rows):
            first, last = max(0, top - around), min(height, top + rows + around)
            strip = self(pixels[:, :, first:last], tap)
            yield strip[:, :, FACTOR * (top - first) : FACTOR * (min(top + rows, height) - first)]
