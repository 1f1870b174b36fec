"""Inspections that only look: the steps of a run, the parts of guidance, cross-attention and self-attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.lens.attention_record import BUDGET, CrossAttentionRecord, SelfAttentionRecord
from diffuscope.lens.guidance_record import GuidanceRecord
from diffuscope.lens.inspect.base import Inspection, Seen, call_of, calls_per_step, one_text, pictures
from diffuscope.lens.prompt_to_prompt import Refine, Replace, Reweight
from diffuscope.lens.run_tap import compose
from diffuscope.pipeline import Pipeline
from diffuscope.prompt.positions import token_positions
from diffuscope.request import Request
from diffuscope.schema import Options
from diffuscope.types import Tap


@dataclass(frozen=True, kw_only=True)
class NoOptions(Options):
    """Nothing to choose."""


def steps(pipe: Pipeline, request: Request, options: NoOptions) -> Inspection:  # noqa: ARG001
    """``x`` and ``x0`` [steps,C,h,w]: latents and clean estimate after each step; ``pictures`` [1,H,W,3]."""

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        (one,) = seen
        found = pictures(seen)
        if one.states:
            found |= {"x": torch.cat([x for x, _ in one.states]), "x0": torch.cat([x0 for _, x0 in one.states])}
        return found

    one_text(request)
    return Inspection([call_of(request)], gather, keeps_states=True)


def guidance(pipe: Pipeline, request: Request, options: NoOptions) -> Inspection:  # noqa: ARG001
    """``cond``, ``uncond``, ``x0`` and ``x`` [calls,C,h,w], ``sigmas`` [calls]: what guidance combines, and its sum."""
    one_text(request)
    record = GuidanceRecord()
    call = call_of(request, tap=record, guidance=record.record)

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        parts = record.tensors(pipe.config.schedule.prediction)
        return pictures(seen) | {name: value[:, 0] if value.ndim > 1 else value for name, value in parts.items()}

    counts = calls_per_step(pipe, call)
    return Inspection([call], gather, lambda: {"calls_per_step": counts})


def cross_attention(pipe: Pipeline, request: Request, options: NoOptions) -> Inspection:  # noqa: ARG001
    """For each layer uint8 [calls,heads,words,h,w], and its ``.scale``: how each position divides its attention."""
    one_text(request)
    record = CrossAttentionRecord(pipe.tokenizer)
    call = call_of(request, tap=record)
    counts = calls_per_step(pipe, call)
    return Inspection(
        [call],
        lambda seen: pictures(seen) | record.tensors(),
        lambda: {"calls_per_step": counts, **_words(record)},
    )


def self_attention(pipe: Pipeline, request: Request, options: NoOptions) -> Inspection:  # noqa: ARG001
    """For each layer uint8 [calls,h,w,h,w], and its ``.scale``: to which positions each position attends."""
    one_text(request)
    record = SelfAttentionRecord()
    call = call_of(request, tap=record)
    counts = calls_per_step(pipe, call)
    return Inspection(
        [call],
        lambda seen: pictures(seen) | record.tensors(),
        lambda: {"calls_per_step": counts, "kept_calls": list(record.kept_calls)},
    )


@dataclass(frozen=True, kw_only=True)
class Edit(Options):
    """An edit by prompt-to-prompt (Hertz et al. 2023)."""

    edit: str | None = None
    """the edited prompt; without one the prompt itself, with a word reweighted"""
    method: Literal["replace", "refine"] = "refine"
    """replace: as many words as in the prompt, each takes the attention of the one at its place; refine: words may be
    added, and keep their own"""
    cross_fraction: Annotated[float, Interval(ge=0, le=1)] = 0.8
    """share of the network calls, from the first, that take the prompt's cross-attention"""
    self_fraction: Annotated[float, Interval(ge=0, le=1)] = 0.4
    """share of the network calls, from the first, that take its self-attention"""
    word: str | None = None
    """reweight this word of the edited prompt"""
    factor: float = 2.0
    """by which the word's attention is multiplied, -2 to 2 in the paper"""


def prompt_to_prompt(pipe: Pipeline, request: Request, options: Edit) -> Inspection:
    """``pictures`` of the prompt, of its edit, and of the edited prompt alone; maps of the first two.

    The maps are those of ``attention``, under ``source.`` and ``edit.``.
    """
    source = one_text(request)
    if request.branch is not None:
        raise InputError("branch", request.branch.step, "None: both prompts are made from the first step on")
    if options.edit is None and options.word is None:
        raise InputError("options.edit", None, "an edited prompt, or a word to reweight")
    edited = source if options.edit is None else options.edit
    kind = Replace if options.method == "replace" else Refine
    taps: list[Tap] = [kind(pipe.tokenizer, cross_fraction=options.cross_fraction, self_fraction=options.self_fraction)]
    if options.word is not None:
        positions = token_positions(options.word, edited, pipe.tokenizer, request.prompt_syntax)
        taps.append(Reweight(dict.fromkeys(positions, options.factor), images=[1]))
    records = [CrossAttentionRecord(pipe.tokenizer, image=image, budget=BUDGET // 2) for image in (0, 1)]
    seeds = [request.seed if isinstance(request.seed, int) else 0] * 2
    both = call_of(request, prompt=[source, edited], seed=seeds, tap=compose(*taps, *records))
    alone = call_of(request, prompt=edited, seed=seeds[0])
    counts = calls_per_step(pipe, both)

    def gather(seen: Sequence[Seen]) -> dict[str, Tensor]:
        pair, single = seen
        halves = [Seen((), None)] * 2 if pair.result is None else [pair]
        maps = {
            f"{name}.{layer}": value
            for name, record in zip(("source", "edit"), records, strict=True)
            for layer, value in record.tensors().items()
        }
        return pictures([*halves, single]) | maps

    def describe() -> dict[str, Any]:
        source, edit = (_words(record) for record in records)
        return {"calls_per_step": counts, "source": source, "edit": edit}

    return Inspection([both, alone], gather, describe)


def _words(record: CrossAttentionRecord) -> dict[str, Any]:
    words = [{"word": word.word, "positions": list(word.positions)} for word in record.words]
    return {"words": words, "averages_heads": record.averages_heads}
