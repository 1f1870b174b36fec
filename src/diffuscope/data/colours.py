"""Ottosson's OKLab, the dominant colour of a picture, and recolouring that keeps light and shade.

OKLab (Ottosson 2020, "A perceptual color space for image processing") has lightness L in [0,1] and opponent axes a, b;
OKLCh is the same in polar form: chroma C and hue h in radians.
"""

import math

import numpy as np
import torch
from torch import Tensor

from diffuscope.data.palette import COLOUR_WORDS, COLOURS, MIN_SHARE, TO_CONE, TO_LAB

__all__ = [
    "COLOURS",
    "COLOUR_WORDS",
    "MIN_SHARE",
    "RECOLOUR_VERSION",
    "dominant_tones",
    "dominant_word",
    "nearest_word",
    "oklab",
    "polar",
    "recolour",
    "recolour_to_word",
    "srgb",
    "word_tones",
]

RECOLOUR_VERSION = 2
"""Version of ``recolour_to_word``; training examples of another version are encoded again."""

_GRAY_SHARE = 0.4  # share that a gray needs to be dominant: most pictures have some white or black
_GRAY = 0.045  # chroma below which a pixel has no hue to speak of
_NEAR_HUE = math.radians(32)  # half width of one hue
_NEAR_LIGHT = 0.22  # half width of one shade of gray
_SHADE = 0.85  # factor of lightness differences within the dominant colour
_SHADE_WHOLE = 0.6  # the same when all hues become one; their lightness differs more
_CLEARLY = 0.6  # a colour that is dominant with this part of its area is clearly dominant

Matrix = tuple[tuple[float, ...], ...]

_FROM_CONE = tuple(map(tuple, np.linalg.inv(TO_CONE).tolist()))
_FROM_LAB = tuple(map(tuple, np.linalg.inv(TO_LAB).tolist()))


def _apply_matrix(channels: Tensor, matrix: Matrix) -> Tensor:
    """``matrix`` applied to ``channels`` [B,3,...]; written out, because matrix units may round to ten bits."""
    one, two, three = channels.unbind(1)
    return torch.stack([row[0] * one + row[1] * two + row[2] * three for row in matrix], 1)


def oklab(rgb: Tensor) -> Tensor:
    """OKLab [B,3,...] of sRGB [B,3,...] in [0,1], in the same dtype."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    return _apply_matrix(_apply_matrix(linear, TO_CONE).clamp(min=0) ** (1 / 3), TO_LAB)


def srgb(lab: Tensor) -> Tensor:
    """The sRGB [B,3,...] in [0,1] of OKLab [B,3,...]; colours outside are clamped."""
    linear = _apply_matrix(_apply_matrix(lab, _FROM_LAB) ** 3, _FROM_CONE).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def polar(lab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """OKLab [B,3,...] as lightness, chroma and hue, each [B,...]."""
    return lab[:, 0], torch.hypot(lab[:, 1], lab[:, 2]), torch.atan2(lab[:, 2], lab[:, 1])


def word_tones(like: Tensor) -> Tensor:
    """[12,3] lightness, chroma and hue of the colour words, of the dtype and on the device of ``like``."""
    rgb = torch.tensor(list(COLOURS.values()), dtype=torch.float64) / 255
    return torch.stack(polar(oklab(rgb)), 1).to(like)


def _wrap(hue: Tensor) -> Tensor:
    """``hue`` wrapped to [-pi, pi)."""
    return torch.remainder(hue + math.pi, 2 * math.pi) - math.pi


def _has_hue(chroma: Tensor) -> Tensor:
    """Weight in [0,1] of pixels with a hue, soft at the threshold."""
    return ((chroma - 0.7 * _GRAY) / (0.5 * _GRAY)).clamp(0, 1)


def _membership(light: Tensor, chroma: Tensor, hue: Tensor, tone: Tensor) -> Tensor:
    """[B,...] weight in [0,1] of pixels of the ``tone`` [B,4] of their picture, soft at the thresholds."""
    shape = (-1,) + (1,) * (light.ndim - 1)
    own_light, own_chroma, own_hue = (tone[:, i].view(shape) for i in range(3))
    colourful = _has_hue(chroma)
    by_hue = ((1.5 - _wrap(hue - own_hue).abs() / _NEAR_HUE) / 0.5).clamp(0, 1) * colourful
    by_light = ((1.5 - (light - own_light).abs() / _NEAR_LIGHT) / 0.5).clamp(0, 1) * (1 - colourful)
    return torch.where(own_chroma > 0, by_hue, by_light)


def dominant_tones(sprites: Tensor, chunk: int = 256) -> Tensor:
    """The dominant colour of each picture.

    Args:
        sprites: [N,4,H,W] uint8 RGBA.
        chunk: batch size.

    Returns:
        [N,4] float32 on the CPU: lightness, chroma, hue, and the share of the opaque area that has this colour.
        Chroma 0 is a shade of gray, which is dominant only if no hue has the share ``MIN_SHARE``. A share of 0 means
        that no colour is dominant.
    """
    step = max(1, sprites.shape[-1] // 64)
    return torch.cat([_dominant_tones(part[:, :, ::step, ::step].float() / 255).cpu() for part in sprites.split(chunk)])


def dominant_word(tone: Tensor) -> Tensor:
    """[N] index of the colour word nearest to each tone [N,4] of ``dominant_tones``; -1 if no colour is dominant."""
    light, chroma, hue, share = tone.unbind(1)
    nearest = nearest_word(torch.stack([light, chroma * hue.cos(), chroma * hue.sin()], 1))
    return torch.where(share > 0, nearest, -1)


def nearest_word(lab: Tensor) -> Tensor:
    """[N] index of the colour word nearest in OKLab (Euclidean) to each colour ``lab`` [N,3]."""
    words = torch.tensor(list(COLOURS.values()), dtype=torch.float64) / 255
    return torch.cdist(lab.double(), oklab(words).to(lab.device)).argmin(1)


def _dominant_tones(rgba: Tensor) -> Tensor:
    light, chroma, hue = (channel.flatten(1) for channel in polar(oklab(rgba[:, :3])))
    area = rgba[:, 3].flatten(1)
    whole = area.sum(1, keepdim=True).clamp(min=1e-6)

    colourful = (chroma > _GRAY) * area
    best_hue = _peak(hue / (2 * math.pi) + 0.5, colourful * chroma, bins=36, around=True)
    best_hue = (best_hue - 0.5) * 2 * math.pi
    offset = _wrap(hue - best_hue)
    near = (offset.abs() < _NEAR_HUE) * colourful
    by_hue = torch.cat(
        [
            _mean(light, near),
            _mean(chroma, near),
            _wrap(best_hue + _mean(offset, near)),
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
    return torch.where(by_hue[:, 3:] >= MIN_SHARE, by_hue, by_light)


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


def recolour_to_word(sprites: Tensor, tone: Tensor, word: Tensor) -> Tensor:
    """Sprites with their dominant colour replaced by that of a word, and every hue if that is not enough.

    After a green crown has become black, a palm tree is dominated by its brown trunk: then every hue is replaced. The
    word is clearly dominant if it still is with ``_CLEARLY`` of its area. If it is not dominant even with every hue
    replaced, only the dominant colour is. Grays that are not dominant always stay.

    Args:
        sprites: [B,4,H,W] sRGB and alpha in [0,1]. Not modified.
        tone: [B,4] of ``dominant_tones``.
        word: [B] index of the colour word.

    Returns:
        [B,3,H,W] sRGB in [0,1].
    """
    rgb, alpha, target = sprites[:, :3], sprites[:, 3:], word_tones(tone)[word]
    own = _membership(*polar(oklab(rgb)), tone)[:, None]
    recoloured = recolour(rgb, tone, target)
    weak = (~_is_dominant(word, recoloured, alpha * (1 - (1 - _CLEARLY) * own))).nonzero()[:, 0]
    if len(weak):
        every = recolour(rgb[weak], tone[weak], target[weak], whole=True)
        better = _is_dominant(word[weak], every, alpha[weak])
        recoloured[weak[better]] = every[better]
    return recoloured


def _is_dominant(word: Tensor, rgb: Tensor, alpha: Tensor) -> Tensor:
    """[B] whether the dominant colour of each picture is ``word`` [B]."""
    tone = dominant_tones((torch.cat([rgb, alpha], 1) * 255).round().byte())
    return dominant_word(tone).to(word.device) == word


def recolour(rgb: Tensor, tone: Tensor, target: Tensor, *, whole: bool = False) -> Tensor:
    """Pictures with their dominant colour replaced; differences of lightness and ratios of chroma within it stay.

    Other colours do not change. A picture recoloured to its own tone changes by nothing but softer lightness.

    Args:
        rgb: [B,3,H,W] sRGB in [0,1]. Not modified.
        tone: [B,4] of ``dominant_tones``.
        target: [B,3] new lightness, chroma and hue.
        whole: replace other hues too, as shades of the dominant one; grays stay.

    Returns:
        [B,3,H,W] sRGB in [0,1].
    """
    lab = oklab(rgb)
    light, chroma, hue = polar(lab)
    own_light, own_chroma, own_hue = (tone[:, i].view(-1, 1, 1) for i in range(3))
    new_light, new_chroma, new_hue = (target[:, i].view(-1, 1, 1) for i in range(3))
    mask = _membership(light, chroma, hue, tone)
    if whole:
        mask = mask.maximum(_has_hue(chroma))
    light = (new_light + (light - own_light) * (_SHADE_WHOLE if whole else _SHADE)).clamp(0, 1)
    ratio = torch.where(own_chroma > 0, chroma / own_chroma.clamp(min=1e-6), torch.ones_like(chroma)).clamp(max=1.6)
    turn = _wrap(hue - own_hue).clamp(-1.5 * _NEAR_HUE, 1.5 * _NEAR_HUE)  # the largest within the tone
    hue = new_hue + torch.where(own_chroma > 0, 0.4 * turn, torch.zeros_like(hue))
    chroma = new_chroma * ratio
    new = torch.stack([light, chroma * hue.cos(), chroma * hue.sin()], 1)
    return srgb(torch.lerp(lab, new, mask[:, None]))
