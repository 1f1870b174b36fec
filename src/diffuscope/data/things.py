"""Background and thing of a picture: which of the twelve colour words they have, and which a sprite can take."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.data.colours import coloured, leading_word, measure, nearest_word, oklab
from diffuscope.data.palette import SHARE, WORDS

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
    near = distance < NEAR
    reached = near.clone()
    reached[:, 1:-1, 1:-1] = False
    while True:
        grown = _spread(reached) & near
        if torch.equal(grown, reached):
            return ~reached
        reached = grown


def _spread(mask: Tensor) -> Tensor:
    """[N,H,W] bool: ``mask`` and the eight neighbours of its pixels. Much faster than a max-pool on a CPU."""
    wide = mask.clone()
    wide[..., 1:] |= mask[..., :-1]
    wide[..., :-1] |= mask[..., 1:]
    tall = wide.clone()
    tall[..., 1:, :] |= wide[..., :-1, :]
    tall[..., :-1, :] |= wide[..., 1:, :]
    return tall


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


def takes(sprites: Tensor, tones: Tensor, chunk: int = 256) -> Tensor:
    """Which colour words each sprite takes: ``coloured`` so, it is a thing of that colour.

    Others would teach a wrong name: a night sky turned blue is a black thing, because of its houses, and a gray pair of
    scales on white paper is a white one. So the word must be nearest to what leads both the sprite by itself
    and, but for white, the thing that it is on white.

    Args:
        sprites: [N,4,P,P] uint8 RGBA.
        tones: [N,4] what ``colours.measure`` says of them.
        chunk: sprites at a time.

    Returns:
        [N,12] bool on the CPU, in the order of ``WORDS``; all False for a sprite that no colour leads.
    """
    found = torch.zeros(len(sprites), len(WORDS), dtype=torch.bool)
    for rows in (tones[:, 3] >= SHARE).nonzero()[:, 0].split(chunk):
        rgba, tone = _small(sprites[rows.to(sprites.device)]), tones[rows].to(sprites.device)
        for word in range(len(WORDS)):
            rgb = coloured(rgba, tone, torch.full_like(tone[:, 0], word, dtype=torch.long))
            bare = (torch.cat([rgb, rgba[:, 3:]], 1) * 255).round().byte()
            on_white = ((1 - (1 - rgb) * rgba[:, 3:]) * 255).round().byte()
            fits = leading_word(measure(bare)) == word
            if WORDS[word] != "white":
                fits &= thing_word(on_white).cpu() == word
            found[rows, word] = fits
    return found


def _small(sprites: Tensor) -> Tensor:
    """[N,4,S,S] RGBA in [0,1] of uint8 [N,4,P,P], S about 64: large enough to tell a colour from."""
    rgba = sprites.float() / 255
    pool = max(1, rgba.shape[-1] // 64)
    if pool == 1:
        return rgba
    alpha = F.avg_pool2d(rgba[:, 3:], pool)
    return torch.cat([F.avg_pool2d(rgba[:, :3] * rgba[:, 3:], pool) / alpha.clamp(min=1e-4), alpha], 1).clamp(0, 1)
