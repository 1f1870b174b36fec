"""Inspections that change something and measure what follows: ablation, its map over blocks and steps, a loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from diffuscope.diffusion.loss_guidance import colour_loss, loss_guidance
from diffuscope.errors import InputError
from diffuscope.lens.ablation import Ablation
from diffuscope.lens.functions import decoder
from diffuscope.lens.inspect.base import Inspection, Seen, call_of, calls_per_step, one_text, pictures
from diffuscope.lens.recording import Record
from diffuscope.nn.taps import tap_points
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.guidance import SCALES
from diffuscope.pipeline.taps import matching
from diffuscope.prompt.positions import token_positions
from diffuscope.request import PositiveScale, Request
from diffuscope.schema import Options

Part = Literal["cross_attn", "self_attn", "ff"]
Band = Annotated[int, Interval(ge=1, le=16)]


@dataclass(frozen=True, kw_only=True)
class Switch(Options):
    """What is switched off, or turned down."""

    names: str | Sequence[str] = "unet.*.cross_attn"
    """activations or globs: of an attention, a feed-forward network, a resnet block"""
    strength: float = 0.0
    """what remains of it: 0 is off, 1 changes nothing, 2 doubles it"""
    heads: Sequence[int] | None = None
    """only these heads of the attentions"""
    word: str | None = None
    """only the attention to this word of the prompt"""
    first: Annotated[int, Ge(0)] = 0
    """first network call in which it is changed"""
    last: Annotated[int, Ge(0)] | None = None
    """last one; that of the run by default"""
    area: str | None = None
    """only here: rows of 1 and 0 between commas, such as 0110,0010, stretched over the image"""


def ablation(pipe: Pipeline, request: Request, options: Switch) -> Inspection:
    """``pictures`` and ``latents`` of the run as it is, and with something switched off or turned down."""
    prompt = one_text(request)
    names = [options.names] if isinstance(options.names, str) else list(options.names)
    tokens = None
    if options.word is not None:
        if options.heads is not None:
            raise InputError("options.heads", options.heads, "None with a word")
        tokens = token_positions(options.word, prompt, pipe.tokenizer, request.prompt_syntax)
        names = [f"{name}.weights" for name in names]
    elif options.heads is not None:
        names = [f"{name}.head_out" for name in names]
    for name in names:
        matching(name, list(pipe.components.networks.values()))  # refused here, not when it runs
    counts = calls_per_step(pipe, call_of(request))
    stop = sum(counts) if options.last is None else options.last + 1
    if options.first >= stop:
        raise InputError("options.first", options.first, f"a number below {stop}")
    every = options.first == 0 and stop >= sum(counts)
    calls = None if every else range(options.first, stop)
    area = None if options.area is None else _area(options.area)
    tap = Ablation(names, options.strength, heads=options.heads, tokens=tokens, calls=calls, area=area)

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        found = pictures(seen)
        if all(each.result is not None for each in seen):
            found["latents"] = torch.cat([each.result.latents for each in seen if each.result is not None])
            found["effect"] = _effect(found["latents"][1:], found["latents"][:1])
        return found

    return Inspection([call_of(request), call_of(request, tap=tap)], gather, lambda: {"calls_per_step": counts})


@dataclass(frozen=True, kw_only=True)
class Map(Options):
    """Which part of each transformer block is switched off, and in how many bands of steps."""

    part: Part = "cross_attn"
    """cross_attn, self_attn or ff"""
    bands: Band = 4
    """the steps in so many groups, or as many as there are steps"""
    strength: float = 0.0
    """what remains of the part: 0 is off"""


def ablation_map(pipe: Pipeline, request: Request, options: Map) -> Inspection:
    """``effect`` [blocks,bands]: what the final latents lack without a block's part in a band of steps.

    It is the root mean square of the change, divided by the latents' standard deviation; NaN until it is known.
    ``latents`` [1+blocks*bands,C,h,w] are those of the whole run, then of each.
    """
    one_text(request)
    blocks = [name for name in tap_points(pipe.unet) if name.endswith(f".{options.part}")]
    whole = call_of(request, output_type="latent")
    counts = calls_per_step(pipe, whole)
    ends = [0, *accumulate(counts)]
    kept = counts.count(0)  # steps of another run, which are not made again
    bands = min(options.bands, len(counts) - kept)
    edges = [kept + round(k * (len(counts) - kept) / bands) for k in range(bands + 1)]
    calls = [
        call_of(
            request, output_type="latent", tap=Ablation(block, options.strength, calls=range(ends[first], ends[stop]))
        )
        for block in blocks
        for first, stop in pairwise(edges)
    ]

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        latents = [None if each.result is None else each.result.latents for each in seen]
        done = torch.tensor([value is not None for value in latents], dtype=torch.uint8)
        effect = torch.full((len(calls),), float("nan"))
        plain = latents[0]
        if plain is None:
            return {"effect": effect.view(len(blocks), bands), "done": done}
        for k, value in enumerate(latents[1:]):
            if value is not None:
                effect[k] = _effect(value, plain)[0]
        filled = [torch.full_like(plain, float("nan")) if value is None else value for value in latents]
        return {"effect": effect.view(len(blocks), bands), "done": done, "latents": torch.cat(filled)}

    about: dict[str, Any] = {"blocks": blocks, "bands": [[a, b - 1] for a, b in pairwise(edges)]}
    return Inspection([whole, *calls], gather, lambda: about)


@dataclass(frozen=True, kw_only=True)
class Colour(Options):
    """A colour towards which the picture is pushed."""

    colour: tuple[float, float, float] = (0.1, 0.9, 0.5)
    """red, green and blue from 0 to 1; by default that of the course"""
    scale: PositiveScale = SCALES["colour"]
    """weight of the loss"""
    low: PositiveScale = 0.0
    """stop at this noise level"""


def colour(pipe: Pipeline, request: Request, options: Colour) -> Inspection:
    """``pictures`` without and with loss guidance; ``push`` and ``x0`` [calls,C,h,w], ``sigmas`` [calls].

    ``push`` is what the loss adds to the clean estimate ``x0``, ``-scale sigma^2 gradient``.
    """
    one_text(request)
    before, after = Record(), Record()
    guide = loss_guidance(colour_loss(*options.colour), decoder(pipe), scale=options.scale, low=options.low)

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        found, count = pictures(seen), len(after.x0)
        if count:
            first, last = (torch.cat(record.x0[:count]) for record in (before, after))
            found |= {"x0": first, "push": last - first, "sigmas": torch.tensor(before.sigmas[:count])}
        return found

    counts = calls_per_step(pipe, call_of(request))
    calls = [call_of(request), call_of(request, guidance=(before, guide, after))]
    return Inspection(calls, gather, lambda: {"calls_per_step": counts})


def _area(text: str) -> Tensor:
    """[h,w] of rows of 1 and 0."""
    rows = text.split(",")
    if not rows[0] or any(len(row) != len(rows[0]) or set(row) - {"0", "1"} for row in rows):
        raise InputError("options.area", text[:64], "rows of 1 and 0 between commas, all of one length")
    return torch.tensor([[float(cell) for cell in row] for row in rows])


def _effect(latents: Tensor, plain: Tensor) -> Tensor:
    """[N] RMS difference of latents [N,C,h,w] from those of one image, in its standard deviations."""
    return (latents - plain).square().mean((1, 2, 3)).sqrt() / plain.std()
