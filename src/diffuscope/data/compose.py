"""Scenes to pixels, in batches, on any device."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffuscope.data.colours import recolour_to_word
from diffuscope.data.scenes import SLOTS, Scenes
from diffuscope.errors import InputError, Unquoted

_REACH = 16  # filter taps beyond the sprite, in pixels; limits downscaling to 1/16


@dataclass(frozen=True)
class Canvas:
    """The rendered corpus on a device."""

    sprites: Tensor
    """[N,4,P,P] uint8 RGBA."""
    tones: Tensor
    """[N,4] of ``colours.dominant_tones``."""

    @classmethod
    def on(cls, device: str | torch.device, sprites: Tensor, tones: Tensor) -> "Canvas":
        """Move ``sprites`` [N,4,P,P] uint8 and their ``tones`` [N,4] to ``device``."""
        if sprites.dtype != torch.uint8 or sprites.ndim != 4 or sprites.shape[1] != 4:
            got = Unquoted(f"{sprites.dtype} of shape {list(sprites.shape)}")
            raise InputError("sprites", got, "uint8 [N,4,P,P]", "Permute the output of render_all")
        return cls(sprites.to(device), tones.to(device))


def compose(canvas: Canvas, scenes: Scenes) -> Tensor:
    """Images of ``scenes``: premultiplied alpha-over in slot order (Porter & Duff 1984), recoloured in OKLCh.

    A centred sprite of size 1 is copied exactly. Others are resampled with a triangle filter that widens with
    downscaling, as Pillow's BILINEAR does.

    Returns:
        [B,3,P,P] float32 in [-1,1] on the canvas's device, P the size of the sprites. In float32 under autocast too.
    """
    with torch.no_grad(), torch.autocast(canvas.sprites.device.type, enabled=False):
        return _compose(canvas, scenes) * 2 - 1


def _compose(canvas: Canvas, scenes: Scenes) -> Tensor:
    device = canvas.sprites.device
    side = canvas.sprites.shape[-1]
    background = torch.from_numpy(scenes.background).to(device, non_blocking=True).float() / 255
    picture = background[:, :, None, None].repeat(1, 1, side, side)
    for slot in range(SLOTS):
        used = np.flatnonzero(scenes.sprite[:, slot] >= 0)
        if len(used) == 0:
            break
        layer = _layer(canvas, scenes, used, slot)
        whole = len(used) == len(scenes)
        rows = torch.from_numpy(used).to(device, non_blocking=True)
        under = picture if whole else picture[rows]
        under = layer[:, :3] + under * (1 - layer[:, 3:])
        picture = under if whole else picture.index_copy(0, rows, under)
    return picture


def _layer(canvas: Canvas, scenes: Scenes, used: NDArray[np.int64], slot: int) -> Tensor:
    """[R,4,P,P] premultiplied RGBA of ``slot`` in the scenes ``used``."""
    device = canvas.sprites.device

    def send(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)

    index = scenes.sprite[used, slot]
    colour = scenes.colour[used, slot]
    sprites = canvas.sprites[send(index.astype(np.int64))].float() / 255
    recoloured = np.flatnonzero(colour >= 0)
    if len(recoloured):
        tone = canvas.tones[send(index[recoloured].astype(np.int64))]
        rows = send(recoloured)
        sprites[rows, :3] = recolour_to_word(sprites[rows], tone, send(colour[recoloured].astype(np.int64)))
    layer = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], 1)

    x, y, size = scenes.x[used, slot], scenes.y[used, slot], scenes.size[used, slot]
    mirror = scenes.mirror[used, slot]
    moved = np.flatnonzero((size != 1) | (x != 0.5) | (y != 0.5) | mirror)
    if len(moved):
        rows = send(moved)
        across = resampling_matrix(send(x[moved]), send(size[moved]), layer.shape[-1], send(mirror[moved]))
        down = resampling_matrix(send(y[moved]), send(size[moved]), layer.shape[-1])
        layer[rows] = (down[:, None] @ layer[rows] @ across[:, None].mT).clamp(0, 1)
    return layer


def resampling_matrix(centre: Tensor, size: Tensor, side: int, mirror: Tensor | None = None) -> Tensor:
    """Resampling along one axis as a matrix.

    Args:
        centre: [R] middle of the sprite, in canvas widths.
        size: [R] side of the sprite, in canvas widths; at least 1/16.
        side: pixels of sprite and canvas.
        mirror: [R] whether the sprite is flipped.

    Returns:
        [R,side,side], from sprite pixels to canvas pixels. Rows sum to 1 inside the sprite and fall to 0 at its border.
    """
    out = (torch.arange(side, device=size.device) + 0.5) / side
    at = (out - (centre - size / 2)[:, None]) / size[:, None]
    if mirror is not None:
        at = torch.where(mirror[:, None], 1 - at, at)
    taps = torch.arange(-_REACH, side + _REACH, device=size.device) + 0.5
    width = (1 / size).clamp(min=1)[:, None, None]
    triangle = (1 - (at[:, :, None] * side - taps).abs() / width).clamp(min=0)
    total = triangle.sum(2, keepdim=True)
    return (triangle / total.clamp(min=1e-6))[:, :, _REACH:-_REACH]
