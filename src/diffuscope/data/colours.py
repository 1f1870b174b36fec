"""Ottosson's OKLab, the leading colour of a picture, and recolouring that keeps light and shade.

OKLab (Ottosson 2020, "A perceptual color space for image processing") has lightness L in [0,1] and opponent axes a, b;
OKLCh is the same in polar form: chroma C and hue h in radians.
"""

import math

import numpy as np
import torch
from torch import Tensor

from diffuscope.data.palette import COLOURS, SHARE, TO_CONE, TO_LAB, WORDS

__all__ = [
    "COLOURS",
    "RULE",
    "SHARE",
    "WORDS",
    "coloured",
    "leading_word",
    "measure",
    "nearest_word",
    "oklab",
    "polar",
    "recolour",
    "srgb",
    "targets",
]

RULE = 2
"""Version of ``coloured``: what is made by another rule is made anew."""

_GRAY_SHARE = 0.4  # a gray leads only where it has this share: most pictures have some white or black
_GRAY = 0.045  # chroma below which a pixel has no hue to speak of
_NEAR_HUE = math.radians(32)  # half width of one hue
_NEAR_LIGHT = 0.22  # half width of one shade of gray
_SHADE = 0.85  # how much of the lightness differences inside the leading colour stays
_SHADE_WHOLE = 0.6  # the same where all hues turn into one, which are of more different lightness
_LEAD = 0.6  # part of the leading colour's area that is enough for it to lead clearly

Matrix = tuple[tuple[float, ...], ...]

_FROM_CONE = tuple(map(tuple, np.linalg.inv(TO_CONE).tolist()))
_FROM_LAB = tuple(map(tuple, np.linalg.inv(TO_LAB).tolist()))


def _mixed(channels: Tensor, matrix: Matrix) -> Tensor:
    """``matrix`` applied to ``channels`` [B,3,...]; written out, because matrix units may round to ten bits."""
    one, two, three = channels.unbind(1)
    return torch.stack([row[0] * one + row[1] * two + row[2] * three for row in matrix], 1)


def oklab(rgb: Tensor) -> Tensor:
    """OKLab [B,3,...] of sRGB [B,3,...] in [0,1], in the same dtype."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    return _mixed(_mixed(linear, TO_CONE).clamp(min=0) ** (1 / 3), TO_LAB)


def srgb(lab: Tensor) -> Tensor:
    """The sRGB [B,3,...] in [0,1] of OKLab [B,3,...]; colours outside are clamped."""
    linear = _mixed(_mixed(lab, _FROM_LAB) ** 3, _FROM_CONE).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def polar(lab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """OKLab [B,3,...] as lightness, chroma and hue, each [B,...]."""
    return lab[:, 0], torch.hypot(lab[:, 1], lab[:, 2]), torch.atan2(lab[:, 2], lab[:, 1])


def targets(like: Tensor) -> Tensor:
    """[12,3] lightness, chroma and hue of the colour words, of the dtype and on the device of ``like``."""
    rgb = torch.tensor(list(COLOURS.values()), dtype=torch.float64) / 255
    return torch.stack(polar(oklab(rgb)), 1).to(like)


def _turn(hue: Tensor) -> Tensor:
    """``hue`` brought into [-pi, pi)."""
    return torch.remainder(hue + math.pi, 2 * math.pi) - math.pi


def _colourful(chroma: Tensor) -> Tensor:
    """In [0,1]: how much pixels have a hue. Soft at the border."""
    return ((chroma - 0.7 * _GRAY) / (0.5 * _GRAY)).clamp(0, 1)


def _belongs(light: Tensor, chroma: Tensor, hue: Tensor, tone: Tensor) -> Tensor:
    """[B,...] in [0,1]: how much each pixel belongs to the ``tone`` [B,4] of its picture. Soft at the borders."""
    shape = (-1,) + (1,) * (light.ndim - 1)
    own_light, own_chroma, own_hue = (tone[:, i].view(shape) for i in range(3))
    colourful = _colourful(chroma)
    by_hue = ((1.5 - _turn(hue - own_hue).abs() / _NEAR_HUE) / 0.5).clamp(0, 1) * colourful
    by_light = ((1.5 - (light - own_light).abs() / _NEAR_LIGHT) / 0.5).clamp(0, 1) * (1 - colourful)
    return torch.where(own_chroma > 0, by_hue, by_light)


def measure(sprites: Tensor, chunk: int = 256) -> Tensor:
    """The leading colour of each picture.

    Args:
        sprites: [N,4,H,W] uint8 RGBA.
        chunk: pictures at a time.

    Returns:
        [N,4] float32 on the CPU: lightness, chroma, hue, and the share of the opaque area that has this colour.
        Chroma 0 means a shade of gray, which leads only where no hue reaches the share ``SHARE``; a share of 0
        means that no colour leads.
    """
    step = max(1, sprites.shape[-1] // 64)
    return torch.cat([_measure(part[:, :, ::step, ::step].float() / 255).cpu() for part in sprites.split(chunk)])


def leading_word(tone: Tensor) -> Tensor:
    """[N] index of the colour word nearest to each tone [N,4] of ``measure``; -1 where no colour leads."""
    light, chroma, hue, share = tone.unbind(1)
    found = nearest_word(torch.stack([light, chroma * hue.cos(), chroma * hue.sin()], 1))
    return torch.where(share > 0, found, -1)


def nearest_word(lab: Tensor) -> Tensor:
    """[N] index of the colour word nearest in OKLab (Euclidean) to each colour ``lab`` [N,3]."""
    words = torch.tensor(list(COLOURS.values()), dtype=torch.float64) / 255
    return torch.cdist(lab.double(), oklab(words).to(lab.device)).argmin(1)


def _measure(rgba: Tensor) -> Tensor:
    light, chroma, hue = (channel.flatten(1) for channel in polar(oklab(rgba[:, :3])))
    area = rgba[:, 3].flatten(1)
    whole = area.sum(1, keepdim=True).clamp(min=1e-6)

    colourful = (chroma > _GRAY) * area
    best_hue = _peak(hue / (2 * math.pi) + 0.5, colourful * chroma, bins=36, around=True)
    best_hue = (best_hue - 0.5) * 2 * math.pi
    offset = _turn(hue - best_hue)
    near = (offset.abs() < _NEAR_HUE) * colourful
    by_hue = torch.cat(
        [
            _mean(light, near),
            _mean(chroma, near),
            _turn(best_hue + _mean(offset, near)),
            near.sum(1, keepdim=True) / whole,
        ],
        dim=1,
    )
    gray = (chroma <= _GRAY) * area
    best_light = _peak(light.clamp(0, 0.999), gray, bins=16, around=False)
    near = ((light - best_light).abs() < _NEAR_LIGHT) * gray
    zero = torch.zeros_like(best_light)
    share = near.sum(1, keepdim=True) / whole
    share = torch.where(share < _GRAY_SHARE, zero, share)
    by_light = torch.cat([_mean(light, near), zero, zero, share], dim=1)
    return torch.where(by_hue[:, 3:] >= SHARE, by_hue, by_light)


def _mean(value: Tensor, weight: Tensor) -> Tensor:
    return (value * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-6)


def _peak(value: Tensor, weight: Tensor, *, bins: int, around: bool) -> Tensor:
    """[B,1] centre of the heaviest bin of ``value`` [B,P] in [0,1], smoothed over its neighbours."""
    index = (value * bins).long().clamp(0, bins - 1)
    sums = value.new_zeros(value.shape[0], bins).scatter_add_(1, index, weight)
    left, right = sums.roll(1, 1), sums.roll(-1, 1)
    if not around:
        left[:, 0], right[:, -1] = 0, 0
    return ((sums + 0.9 * (left + right)).argmax(1, keepdim=True) + 0.5) / bins


def coloured(sprites: Tensor, tone: Tensor, word: Tensor) -> Tensor:
    """Sprites as things of a colour: the leading colour replaced and, where the word hardly leads then, every hue.

    A palm tree with a black crown is led by its brown trunk, a brown cable car by its cyan windows: there all turns.
    The word hardly leads if it would not with ``_LEAD`` of its area. Where it does not lead either after all has
    turned, the leading colour alone is replaced. Grays that do not lead always stay.

    Args:
        sprites: [B,4,H,W] sRGB and alpha in [0,1]. Not modified.
        tone: [B,4] what ``measure`` says of them.
        word: [B] index of the colour word.

    Returns:
        [B,3,H,W] sRGB in [0,1].
    """
    rgb, alpha, target = sprites[:, :3], sprites[:, 3:], targets(tone)[word]
    own = _belongs(*polar(oklab(rgb)), tone)[:, None]
    found = recolour(rgb, tone, target)
    weak = (~_leads(word, found, alpha * (1 - (1 - _LEAD) * own))).nonzero()[:, 0]
    if len(weak):
        every = recolour(rgb[weak], tone[weak], target[weak], whole=True)
        better = _leads(word[weak], every, alpha[weak])
        found[weak[better]] = every[better]
    return found


def _leads(word: Tensor, rgb: Tensor, alpha: Tensor) -> Tensor:
    """[B] whether each picture's leading colour has the name ``word`` [B]."""
    tone = measure((torch.cat([rgb, alpha], 1) * 255).round().byte())
    return leading_word(tone).to(word.device) == word


def recolour(rgb: Tensor, tone: Tensor, target: Tensor, *, whole: bool = False) -> Tensor:
    """Pictures with their leading colour replaced.

    Light and shade inside the colour stay, as differences of lightness and ratios of chroma; other colours stay as they
    are. A picture recoloured to its own tone does not change where its lightness is not softened.

    Args:
        rgb: [B,3,H,W] sRGB in [0,1]. Not modified.
        tone: [B,4] what ``measure`` says of them.
        target: [B,3] lightness, chroma and hue to come.
        whole: other hues are replaced too, as if they were shades of the leading one; grays stay.

    Returns:
        [B,3,H,W] sRGB in [0,1].
    """
    lab = oklab(rgb)
    light, chroma, hue = polar(lab)
    own_light, own_chroma, own_hue = (tone[:, i].view(-1, 1, 1) for i in range(3))
    new_light, new_chroma, new_hue = (target[:, i].view(-1, 1, 1) for i in range(3))
    mask = _belongs(light, chroma, hue, tone)
    if whole:
        mask = mask.maximum(_colourful(chroma))
    light = (new_light + (light - own_light) * (_SHADE_WHOLE if whole else _SHADE)).clamp(0, 1)
    ratio = torch.where(own_chroma > 0, chroma / own_chroma.clamp(min=1e-6), torch.ones_like(chroma)).clamp(max=1.6)
    turn = _turn(hue - own_hue).clamp(-1.5 * _NEAR_HUE, 1.5 * _NEAR_HUE)  # no farther than any pixel that belongs
    hue = new_hue + torch.where(own_chroma > 0, 0.4 * turn, torch.zeros_like(hue))
    chroma = new_chroma * ratio
    new = torch.stack([light, chroma * hue.cos(), chroma * hue.sin()], 1)
    return srgb(torch.lerp(lab, new, mask[:, None]))
