"""How many separate things an image shows."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.data.foreground import foreground_mask

LEAST = 0.25
"""Smallest area of a thing, over that of the largest one in its image; smaller parts are not counted."""


def count_things(images: Tensor, chunk: int = 128) -> Tensor:
    """[N] number of connected parts of the foreground of uint8 images [N,3,H,W], by sides and corners."""
    return torch.cat([_counted(components(foreground_mask(part))) for part in images.split(chunk)])


def components(mask: Tensor) -> Tensor:
    """[N,H,W] int64: 0 outside ``mask`` [N,H,W], inside one number from 1 to H*W for each connected part.

    A part's number is the largest of its pixels': each round hands the largest number of 3x3 pixels on, and then takes
    the number of the pixel that the own number points to, so that a number crosses a part in few rounds.
    """
    count, height, width = mask.shape
    numbers = torch.arange(1, height * width + 1, device=mask.device, dtype=torch.float64)
    labels = numbers.view(height, width) * mask
    while True:
        spread = F.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * mask
        flat = spread.flatten(1)
        pointed = torch.cat([flat.new_zeros(count, 1), flat], 1).gather(1, flat.long())
        spread = pointed.view_as(labels)
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def _counted(labels: Tensor) -> Tensor:
    flat = labels.flatten(1)
    areas = torch.zeros(len(flat), int(flat.max()) + 1, device=flat.device)
    areas.scatter_add_(1, flat, torch.ones_like(flat, dtype=areas.dtype))
    areas[:, 0] = 0
    return (areas >= LEAST * areas.amax(1, keepdim=True).clamp(min=1)).sum(1)
