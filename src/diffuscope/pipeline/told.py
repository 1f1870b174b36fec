"""What the U-Net is told of each image beside its latents: text states, pooled text, sizes, scale; as one Denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffuscope.diffusion.guidance import guided, guided_in_one
from diffuscope.diffusion.prediction import denoiser
from diffuscope.errors import InputError
from diffuscope.pipeline import guiding
from diffuscope.prompt import encode_all
from diffuscope.types import Conditioning, Denoiser, Tap

if TYPE_CHECKING:
    from diffuscope.config import ModelConfig
    from diffuscope.pipeline.pipeline import Pipeline
    from diffuscope.pipeline.request import Request


@dataclass(frozen=True)
class Told:
    """One row an image."""

    context: Tensor
    """[N,T,D]."""
    extra: Mapping[str, Tensor]
    """What the U-Net takes under that name, [N,...] each."""

    def __add__(self, other: Told) -> Told:
        """The rows of both."""
        extra = {name: torch.cat([value, other.extra[name]]) for name, value in self.extra.items()}
        return Told(torch.cat([self.context, other.context]), extra)


def told(
    pipe: Pipeline, request: Request, conditioning: Conditioning | None, tap: Tap | None
) -> tuple[Told, Told | None]:
    """What the U-Net is told of each image, and what guidance leads away from; None where nothing guides."""
    negative = request.negative_prompt if request.guided else ()
    prompts = request.prompt if conditioning is None else ()
    rows = len(negative)
    uncond = None
    if negative or prompts:
        states = encode_all([*negative, *prompts], pipe.components.towers, tap, skip=request.clip_skip)
        if negative:
            uncond = _part(states, slice(rows))
        if conditioning is None:
            conditioning = _part(states, slice(rows, None))
    assert conditioning is not None
    if uncond is not None and pipe.config.zero_negative:
        uncond = _zeroed(uncond, [not text for text in negative])
    cond = _row_each(pipe, request, conditioning, request.sizes)
    return cond, None if uncond is None else _row_each(pipe, request, uncond, request.negative_sizes)


def check_conditioning(config: ModelConfig, conditioning: Conditioning) -> int:
    """The number of rows of conditioning that is given in the place of prompts.

    Raises:
        InputError: its shapes are not those that this model reads.
    """
    unet, shape = config.unet, list(conditioning.embeddings.shape)
    if len(shape) != 3 or shape[-1] != unet.context_dim or 0 in shape:
        raise InputError(f"conditioning has embeddings of shape {shape}; this model reads [B,T,{unet.context_dim}]")
    if unet.extra_dim is not None:
        wanted = [shape[0], config.pooled_dim]
        pooled = None if conditioning.pooled is None else list(conditioning.pooled.shape)
        if pooled != wanted:
            raise InputError(f"conditioning has pooled text of shape {pooled}; this model reads {wanted}")
    return shape[0]


def denoisers_of(
    pipe: Pipeline, request: Request, texts: tuple[Told, Told | None], beside: Tensor | None, tap: Tap | None
) -> tuple[Denoiser, Denoiser]:
    """The U-Net with its texts as one Denoiser, guided where there is something to lead away from; and the text alone.

    Args:
        pipe: the model.
        request: its levels and scale.
        texts: what the U-Net is told, and what guidance leads away from.
        beside: [N,C,h,w] further channels of the U-Net's input, or None.
        tap: looks at inner values, or replaces them.
    """

    def one(text: Told) -> Denoiser:
        context = text.context.to(pipe.device, pipe.dtype)
        extra = {name: value.to(pipe.device) for name, value in text.extra.items()} or None

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if beside is not None:
                x = torch.cat([x, beside.repeat(len(x) // len(beside), 1, 1, 1)], dim=1)
            return pipe.unet(x.to(pipe.dtype), time, context, extra=extra, tap=tap)

        return denoiser(predict, request.levels, pipe.config.schedule.prediction)

    cond, uncond = texts
    alone = one(cond)
    if uncond is None:
        return alone, alone
    # Edited conditioning may have another length, which does not go into one batch.
    both = one(uncond + cond) if uncond.context.shape == cond.context.shape else None
    if guiding.joins(request.guidance_options):
        estimates = guiding.Estimates(alone, one(uncond), both, steady=tap is not None)
        return guiding.led(estimates, request, pipe.config.schedule.prediction), alone
    if both is None:
        return guided(alone, one(uncond), request.guidance_scale), alone
    return guided_in_one(both, request.guidance_scale), alone


def _part(states: Conditioning, rows: slice) -> Conditioning:
    pooled = None if states.pooled is None else states.pooled[rows]
    return Conditioning(states.embeddings[rows], pooled=pooled)


def _zeroed(states: Conditioning, empty: Sequence[bool]) -> Conditioning:
    """The states with zeros in the ``empty`` rows."""
    keep = (~torch.tensor(empty)).to(states.embeddings)
    pooled = None if states.pooled is None else states.pooled * keep[:, None]
    return replace(states, embeddings=states.embeddings * keep[:, None, None], pooled=pooled)


def _row_each(pipe: Pipeline, request: Request, states: Conditioning, sizes: Sequence[float]) -> Told:
    """The states of prompts as those of images, with what else the U-Net reads."""
    count = request.num_images_per_prompt
    extra: dict[str, Tensor] = {}
    if pipe.config.unet.extra_dim is not None:
        assert states.pooled is not None
        extra["pooled"] = states.pooled.to(pipe.device).repeat_interleave(count, dim=0)
        extra["sizes"] = torch.tensor(sizes).expand(request.images, -1)
    if pipe.config.unet.guidance_dim is not None:
        extra["guidance"] = torch.full((request.images,), request.guidance_scale)
    return Told(states.embeddings.to(pipe.device).repeat_interleave(count, dim=0), extra)
