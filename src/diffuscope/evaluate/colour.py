"""Which of the twelve colour words a picture's background and its thing have."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.data.colours import leading_word, measure, nearest_word, oklab

NEAR = 0.08
"""OKLab distance under which a pixel may belong to the background."""


def border(pictures: Tensor) -> Tensor:
    """[N,3] OKLab of the median, by channel, of the outermost pixels of uint8 pictures [N,3,H,W]."""
    ring = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, 1:-1, 0], pictures[:, :, 1:-1, -1]], 2)
    return oklab((ring.double() / 255).median(2).values)


def background_word(pictures: Tensor) -> Tensor:
    """[N] index of the colour word of the background: the one nearest to ``border``."""
    return nearest_word(border(pictures))


def thing(pictures: Tensor) -> Tensor:
    """[N,H,W] whether a pixel of uint8 pictures [N,3,H,W] belongs to the thing.

    The background is every pixel within ``NEAR`` of ``border`` that such pixels connect, by sides or corners, to the
    outermost ones; the thing is the rest.
    """
    distance = (oklab(pictures.float() / 255) - border(pictures).float()[:, :, None, None]).norm(dim=1)
    near = (distance < NEAR).float()[:, None]
    reached = near.clone()
    reached[:, :, 1:-1, 1:-1] = 0
    while True:
        grown = F.max_pool2d(reached, 3, stride=1, padding=1) * near
        if torch.equal(grown, reached):
            return reached[:, 0] == 0
        reached = grown


def thing_word(pictures: Tensor, chunk: int = 128) -> Tensor:
    """[N] index of the colour word nearest to the leading colour (``colours.measure``) of each picture's thing.

    -1 where nothing stands on the background.
    """
    words = []
    for part in pictures.split(chunk):
        mask = thing(part)
        rgba = torch.cat([part, mask[:, None].to(torch.uint8) * 255], 1)
        words.append(leading_word(measure(rgba)).to(pictures.device))
    return torch.cat(words)
