"""What a call has to say before its first step: unknown words, far sizes, signs read as text."""

import re
from collections.abc import Iterable, Iterator

from diffuscope.config import ModelConfig
from diffuscope.errors import shown
from diffuscope.loading import Components
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import Plan
from diffuscope.prompt import truncation_notice
from diffuscope.prompt.positions import untrained_words
from diffuscope.request import Request, image_options

NEAR = 1.5
"""The largest ratio of a side to the preset's without a note; the smallest is 1 / NEAR^2."""

MOST = 8
"""Words that are named, at most."""

_BOTH = "prompt_syntax a1111 reads it as AUTOMATIC1111's web UI does, comfyui as ComfyUI"
_NEITHER = "no prompt_syntax reads it; leave it out"

_SIGNS = {
    re.compile(
        r"\([^()]*:\s*[+-]?[.\d]+\s*\)|\([^():]*[^\W\d_]:[+-]?[.\d]+|\(\(.*?\)\)|\\[][()]|\[[^][]+\]|\bBREAK\b|\bAND\b"
    ): _BOTH,
    re.compile(r"\bembedding:[^\s,]+", re.IGNORECASE): "prompt_syntax comfyui reads it as a loaded embedding",
    re.compile(r"<\w+:[^<>]*>|\{[^{}|]*\|[^{}]*\}"): _NEITHER,
    re.compile(r"(?:\b[^\W\d_]{2,}|\))(?:\+{2,}|-{2,})(?![\w+-])"): "prompt_syntax a1111 and comfyui write (word:1.2)",
}
"""Marks of other programs, and what to do about each. Names of emoji have round brackets, which alone are none."""


def notes_before(call: Call, plan: Plan, components: Components) -> list[str]:
    """The notes on a call's texts and sizes, each one sentence."""
    texts = dict.fromkeys((*plan.prompts, *plan.negative_prompts))
    has_text = call.conditioning is None
    notes = [note for note in [size_note(components.config, plan.preset.height, plan.preset.width)] if note]
    if has_text and call.image is None and not all(prompt.strip() for prompt in plan.prompts):
        notes.append("the prompt is empty, so nothing says what the image shows")
    notes += _unused(call, plan)
    notes += _unlearned(plan, components)
    if plan.request.prompt_syntax == "plain":
        notes += (note for text in texts for note in [truncation_notice(text, components.tokenizer)] if note)
        notes += _signs(texts)
    return notes


def size_note(config: ModelConfig, height: int, width: int) -> str | None:
    """A sentence on a size far from that of the preset; None where it is near."""
    preset = config.preset
    if all(1 / NEAR**2 <= side / own <= NEAR for side, own in ((height, preset.height), (width, preset.width))):
        return None
    note = f"{width}x{height} is far from the model's preset, {preset.width}x{preset.height}, so shapes may repeat"
    if preset.upscale > 1:
        large = f"{preset.width * preset.upscale}x{preset.height * preset.upscale}"
        note += f" or tear; without height and width its images are upscaled to {large}"
    return note


def _unlearned(plan: Plan, components: Components) -> Iterator[str]:
    table, syntax = components.text_encoder.token_embedding.weight, plan.request.prompt_syntax
    parts = [part for parts in (*plan.parts, plan.negative_parts) for part in parts]
    texts = dict.fromkeys(text for part in parts for text in part.texts)
    found = (untrained_words(text, components.tokenizer, table, syntax, components.words) for text in texts)
    words = dict.fromkeys(word for own in found for word in own if any(map(str.isalnum, word)))
    if words:
        names = ", ".join(repr(shown(word)[1:-1]) for word in [*words][:MOST])
        more = f" and {len(words) - MOST} other words" if len(words) > MOST else ""
        draws = f"; it draws {components.config.draws[:200]}" if components.config.draws else ""
        yield f"the model never learned {names}{more}{draws}"


def _signs(texts: Iterable[str]) -> Iterator[str]:
    """One sentence for each kind of mark."""
    for pattern, advice in _SIGNS.items():
        found = next(filter(None, map(pattern.search, texts)), None)
        if found is not None:
            yield f"{shown(found[0])} in the prompt is read as plain text; {advice}"


def _unused(call: Call, plan: Plan) -> Iterator[str]:
    """Options that this call does not read."""
    if any(text.strip() for text in plan.negative_prompts) and not plan.guided:
        scale = plan.preset.guidance_scale
        yield f"negative_prompt is not read: at guidance_scale {scale:g} guidance is off"
    for name in image_options() if call.image is None else ():
        if (value := getattr(call, name)) != getattr(Request, name):
            yield f"{name} {value:g} is not read: it needs an image"
