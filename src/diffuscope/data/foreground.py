"""Colour words of the background and of the foreground, and the colour words to which a sprite can be recoloured."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.data.colours import dominant_tones, dominant_word, nearest_word, oklab, recolour_to_word
from diffuscope.data.palette import COLOUR_WORDS, MIN_SHARE

NEAR = 0.08
"""Largest OKLab distance of a background pixel from the border colour."""


def border_colour(pictures: Tensor) -> Tensor:
    """[N,3] OKLab of the median, by channel, of the outermost pixels of uint8 pictures [N,3,H,W]."""
    ring = torch.cat([pictures[:, :, 0], pictures[:, :, -1], pictures[:, :, 1:-1, 0], pictures[:, :, 1:-1, -1]], 2)
    return oklab((ring.double() / 255).median(2).values)


def background_word(pictures: Tensor) -> Tensor:
    """[N] index of the colour word of the background: the one nearest to ``border_colour``."""
    return nearest_word(border_colour(pictures))


def foreground_mask(pictures: Tensor) -> Tensor:
    """[N,H,W] foreground of uint8 pictures [N,3,H,W].

    The background is a flood fill from the outermost pixels, by sides and corners, over pixels within ``NEAR`` of
    ``border_colour``; the foreground is the rest.
    """
    distance = (oklab(pictures.float() / 255) - border_colour(pictures).float()[:, :, None, None]).norm(dim=1)
    near = distance < NEAR
    reached = near.clone()
    reached[:, 1:-1, 1:-1] = False
    while True:
        grown = _spread(reached) & near
        if torch.equal(grown, reached):
            return ~reached
        reached = grown


def _spread(mask: Tensor) -> Tensor:
    """[N,H,W] bool: ``mask`` and the eight neighbours of its pixels; much faster than a max-pool on a CPU."""
    wide = mask.clone()
    wide[..., 1:] |= mask[..., :-1]
    wide[..., :-1] |= mask[..., 1:]
    tall = wide.clone()
    tall[..., 1:, :] |= wide[..., :-1, :]
    tall[..., :-1, :] |= wide[..., 1:, :]
    return tall


def foreground_word(pictures: Tensor, chunk: int = 128) -> Tensor:
    """[N] index of the colour word nearest to the dominant colour of each foreground; -1 without a foreground."""
    words = []
    for part in pictures.split(chunk):
        mask = foreground_mask(part)
        rgba = torch.cat([part, mask[:, None].to(torch.uint8) * 255], 1)
        words.append(dominant_word(dominant_tones(rgba)).to(pictures.device))
    return torch.cat(words)


def recolourable(sprites: Tensor, tones: Tensor, chunk: int = 256) -> Tensor:
    """Which colour words are dominant in each sprite after ``recolour_to_word``.

    Other words would be wrong labels: a night sky recoloured to blue stays black, because of its houses. The word must
    be that of the dominant colour of the sprite and, except for white, of its foreground on white.

    Args:
        sprites: [N,4,P,P] uint8 RGBA.
        tones: [N,4] of ``colours.dominant_tones``.
        chunk: batch size.

    Returns:
        [N,12] bool on the CPU, in the order of ``COLOUR_WORDS``; all False for a sprite without a dominant colour.
    """
    allowed = torch.zeros(len(sprites), len(COLOUR_WORDS), dtype=torch.bool)
    for rows in (tones[:, 3] >= MIN_SHARE).nonzero()[:, 0].split(chunk):
        rgba, tone = _small(sprites[rows.to(sprites.device)]), tones[rows].to(sprites.device)
        for word in range(len(COLOUR_WORDS)):
            rgb = recolour_to_word(rgba, tone, torch.full_like(tone[:, 0], word, dtype=torch.long))
            bare = (torch.cat([rgb, rgba[:, 3:]], 1) * 255).round().byte()
            on_white = ((1 - (1 - rgb) * rgba[:, 3:]) * 255).round().byte()
            fits = dominant_word(dominant_tones(bare)) == word
            if COLOUR_WORDS[word] != "white":
                fits &= foreground_word(on_white).cpu() == word
            allowed[rows, word] = fits
    return allowed


def _small(sprites: Tensor) -> Tensor:
    """[N,4,S,S] RGBA in [0,1] of uint8 [N,4,P,P], S about 64, enough to measure colours."""
    rgba = sprites.float() / 255
    pool = max(1, rgba.shape[-1] // 64)
    if pool == 1:
        return rgba
    alpha = F.avg_pool2d(rgba[:, 3:], pool)
    return torch.cat([F.avg_pool2d(rgba[:, :3] * rgba[:, 3:], pool) / alpha.clamp(min=1e-4), alpha], 1).clamp(0, 1)
