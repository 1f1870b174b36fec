"""Mixing what the U-Net is told: weighted sums of whole prompts, ways between two, words made stronger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.types import Conditioning

Way = Literal["lerp", "slerp"]
"""Along the straight line, or along the arc between the directions."""

_PARALLEL = 1e-6


def batch(texts: Sequence[Conditioning]) -> Conditioning:
    """The rows of all texts, one below the other: ``pipe(conditioning=batch(...))`` draws them in one call.

    Raises:
        InputError: no text, texts of different shapes, or some with pooled text and some without.
    """
    pools = [text.pooled for text in texts if text.pooled is not None]
    if not texts or len({text.embeddings.shape[1:] for text in texts}) > 1 or len(pools) not in (0, len(texts)):
        shapes = [list(text.embeddings.shape) for text in texts]
        raise InputError(f"texts of shapes {shapes}, {len(pools)} of them with pooled text; give texts of one kind")
    ids = [text.ids for text in texts if text.ids is not None]
    return Conditioning(
        torch.cat([text.embeddings for text in texts]),
        torch.cat(ids) if len(ids) == len(texts) else None,
        torch.cat(pools) if pools else None,
    )


def blend(texts: Sequence[Conditioning], weights: Sequence[float]) -> Conditioning:
    """The weighted sum of prompts: the lesson's "chimera" is ``blend([mouse, leopard], [0.35, 0.65])``.

    Weights are taken as they are; those of a mean sum to 1. Several negative prompts are blended in the same way.

    Raises:
        InputError: no text, not one finite weight for each, or texts of different shapes.
    """
    if not texts or len(texts) != len(weights) or not all(map(math.isfinite, weights)):
        raise InputError(f"{len(texts)} texts with weights {list(weights)}; give one finite weight for each text")
    embeddings = _same_shape([text.embeddings for text in texts])
    mixed = sum((weight * each for weight, each in zip(weights, embeddings, strict=True)), 0 * embeddings[0])
    pools = [text.pooled for text in texts if text.pooled is not None]
    pooled = None
    if len(pools) == len(texts):
        pooled = sum((weight * each for weight, each in zip(weights, pools, strict=True)), 0 * pools[0])
    return Conditioning(mixed, pooled=pooled)


def between(start: Conditioning, end: Conditioning, share: float, way: Way = "lerp") -> Conditioning:
    """The prompt at ``share`` of the way from one to another: 0 is ``start``, 1 is ``end``.

    "slerp" goes along the arc, token by token, and the length from one to the other evenly (Shoemake 1985).

    Raises:
        InputError: ``share`` is not finite, an unknown way, or texts of different shapes.
    """
    if not math.isfinite(share) or way not in get_args(Way):
        raise InputError(f"share {share} by {way!r}; give a finite share, and one of {', '.join(get_args(Way))}")
    first, second = _same_shape([start.embeddings, end.embeddings])
    step = torch.lerp if way == "lerp" else slerp
    pooled = None
    if start.pooled is not None and end.pooled is not None:
        pooled = step(start.pooled, end.pooled, share)
    return Conditioning(step(first, second, share), pooled=pooled)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """[...,D] vectors on the arc between those of ``start`` and ``end``, with lengths in between.

    Parallel vectors, and those of length 0, have no arc: they go along the line.
    """
    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    directions = [x / length.clamp_min(1e-12) for x, length in zip((start, end), lengths, strict=True)]
    angle = (directions[0] * directions[1]).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    arc = ((1 - share) * angle).sin() * directions[0] + (share * angle).sin() * directions[1]
    length = torch.lerp(*lengths, share)
    curved = arc / sine.clamp_min(_PARALLEL) * length
    straight = (sine < _PARALLEL) | (lengths[0] == 0) | (lengths[1] == 0)
    return torch.where(straight, torch.lerp(start, end, share), curved)


def stronger(text: Conditioning, weights: Mapping[int, float]) -> Conditioning:
    """The prompt with the states at some token positions scaled; 1 leaves them. Not modified itself.

    Args:
        text: its rows are all scaled.
        weights: position -> factor; 0 silences the token. ``prompt.places.positions_of`` finds a word's positions.

    Raises:
        InputError: a position that is not there, or a factor that is not finite.
    """
    length = text.embeddings.shape[1]
    for position, weight in weights.items():
        if not 0 <= position < length or not math.isfinite(weight):
            raise InputError(
                f"weight {weight} at position {position}; give finite weights for positions 0 to {length - 1}"
            )
    factors = torch.ones(length, 1)
    for position, weight in weights.items():
        factors[position] = weight
    return replace(text, embeddings=text.embeddings * factors.to(text.embeddings))


def _same_shape(tensors: list[Tensor]) -> list[Tensor]:
    shapes = {tuple(each.shape) for each in tensors}
    if len(shapes) != 1:
        raise InputError(f"texts of shapes {sorted(shapes)}; encode them so that they have one shape")
    return tensors
