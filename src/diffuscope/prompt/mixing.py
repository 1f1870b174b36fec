"""Edit encoded prompts: weighted sums, interpolation between two, and token weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.types import Conditioning

Interpolation = Literal["lerp", "slerp"]
"""Along the straight line, or along the arc between the directions."""

_PARALLEL = 1e-6


def batch(texts: Sequence[Conditioning]) -> Conditioning:
    """The rows of all texts in one Conditioning: ``pipe(conditioning=batch(...))`` makes their images in one call.

    Raises:
        InputError: no text, texts of different shapes, or some with pooled text and some without.
    """
    pools = [text.pooled for text in texts if text.pooled is not None]
    if not texts or len({text.embeddings.shape[1:] for text in texts}) > 1 or len(pools) not in (0, len(texts)):
        got = Unquoted(f"shapes {_shapes(texts)}, {len(pools)} with pooled text")
        raise InputError("texts", got, "at least one text, all of one shape, all or none with pooled text")
    ids = [text.ids for text in texts if text.ids is not None]
    return Conditioning(
        torch.cat([text.embeddings for text in texts]),
        torch.cat(ids) if len(ids) == len(texts) else None,
        torch.cat(pools) if pools else None,
    )


def blend(texts: Sequence[Conditioning], weights: Sequence[float]) -> Conditioning:
    """The weighted sum of prompts: ``blend([mouse, leopard], [0.35, 0.65])`` is a chimera.

    Args:
        texts: of one shape; negative prompts are blended in the same way.
        weights: one for each text, used as they are; those of a mean sum to 1.

    Raises:
        InputError: no text, not one finite weight for each, or texts of different shapes.
    """
    if not texts or len(texts) != len(weights) or not all(map(math.isfinite, weights)):
        raise InputError("weights", list(weights), f"one finite weight for each of {len(texts)} texts, at least one")
    _check_one_shape(texts)

    def total(tensors: list[Tensor]) -> Tensor:
        return sum((weight * x for weight, x in zip(weights, tensors, strict=True)), 0 * tensors[0])

    pools = [text.pooled for text in texts if text.pooled is not None]
    return Conditioning(
        total([text.embeddings for text in texts]), pooled=total(pools) if len(pools) == len(texts) else None
    )


def interpolate(
    start: Conditioning, end: Conditioning, fraction: float, method: Interpolation = "lerp"
) -> Conditioning:
    """The prompt between two others.

    Args:
        start: the prompt at fraction 0.
        end: the prompt at fraction 1, of the same shape.
        fraction: any finite number.
        method: "lerp", or "slerp": along the arc, token by token, with lengths interpolated linearly (Shoemake 1985).

    Raises:
        InputError: one of these is not so.
    """
    if not math.isfinite(fraction):
        raise InputError("fraction", fraction, "a finite number")
    if method not in get_args(Interpolation):
        raise InputError("method", method, f"one of {', '.join(get_args(Interpolation))}")
    _check_one_shape([start, end])
    step = torch.lerp if method == "lerp" else slerp
    pooled = None
    if start.pooled is not None and end.pooled is not None:
        pooled = step(start.pooled, end.pooled, fraction)
    return Conditioning(step(start.embeddings, end.embeddings, fraction), pooled=pooled)


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """[...,D] spherical interpolation of vectors (Shoemake 1985), with lengths interpolated linearly.

    Parallel vectors, and those of length 0, have no arc and are interpolated linearly.
    """
    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    directions = [x / length.clamp_min(1e-12) for x, length in zip((start, end), lengths, strict=True)]
    angle = (directions[0] * directions[1]).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    arc = ((1 - fraction) * angle).sin() * directions[0] + (fraction * angle).sin() * directions[1]
    length = torch.lerp(*lengths, fraction)
    curved = arc / sine.clamp_min(_PARALLEL) * length
    straight = (sine < _PARALLEL) | (lengths[0] == 0) | (lengths[1] == 0)
    return torch.where(straight, torch.lerp(start, end, fraction), curved)


def weight_tokens(text: Conditioning, weights: Mapping[int, float]) -> Conditioning:
    """A copy of the prompt with the states at some token positions scaled.

    Args:
        text: all its rows are scaled.
        weights: position -> factor; 1 changes nothing, 0 silences the token. ``prompt.positions.token_positions``
            finds a word's positions.

    Raises:
        InputError: a position outside of the text, or a factor that is not finite.
    """
    length = text.embeddings.shape[1]
    factors = torch.ones(length, 1)
    for position, weight in weights.items():
        if not 0 <= position < length or not math.isfinite(weight):
            raise InputError("weights", {position: weight}, f"finite weights for positions 0 to {length - 1}")
        factors[position] = weight
    return replace(text, embeddings=text.embeddings * factors.to(text.embeddings))


def _check_one_shape(texts: Sequence[Conditioning]) -> None:
    if len({text.embeddings.shape for text in texts}) > 1:
        raise InputError("texts", Unquoted(f"shapes {_shapes(texts)}"), "texts of one shape")


def _shapes(texts: Sequence[Conditioning]) -> list[list[int]]:
    return [list(text.embeddings.shape) for text in texts]
