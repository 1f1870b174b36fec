"""What a call has to say: of its texts and sizes before its first step, of its latents after the last."""

import re
from collections.abc import Iterable, Iterator

from torch import Tensor

from diffuscope.adapters.merging import Loras
from diffuscope.config import ModelConfig
from diffuscope.errors import shown
from diffuscope.loading import Components
from diffuscope.pipeline.plan import Plan
from diffuscope.prompt import truncation_notice
from diffuscope.prompt.positions import untrained_words
from diffuscope.request import Request, image_options

NEAR = 1.5  # the largest ratio of a side to the preset's without a note; the smallest is 1 / NEAR^2
MOST = 8  # words, or images, that are named
LARGEST_DEVIATION = 2.0
"""Latents are scaled to a standard deviation of 1 over the training images, and single images are near it (emoji: 0.8
to 1.3). Beyond twice of it colours and shapes of every image looked at were destroyed."""

STEADY = "dpmpp_2m"  # a sampler that stays in range where multistep methods in sigma (lms, ipndm, pndm) leave it
_BOTH = "prompt_syntax a1111 reads it as AUTOMATIC1111's web UI does, comfyui as ComfyUI"
_NEITHER = "no prompt_syntax reads it; leave it out"

_SIGNS = {
    re.compile(
        r"\([^()]*:\s*[+-]?[.\d]+\s*\)|\([^():]*[^\W\d_]:[+-]?[.\d]+|\(\(.*?\)\)|\\[][()]|\[[^][]+\]|\bBREAK\b|\bAND\b"
    ): _BOTH,
    re.compile(r"\bembedding:[^\s,]+", re.IGNORECASE): "prompt_syntax comfyui reads it as a loaded embedding",
    re.compile(r"<lora:[^<>]*$", re.IGNORECASE): "the tag of a LoRA ends with >",
    re.compile(r"<\w+:[^<>]*>|\{[^{}|]*\|[^{}]*\}"): _NEITHER,
    re.compile(r"(?:\b[^\W\d_]{2,}|\))(?:\+{2,}|-{2,})(?![\w+-])"): "prompt_syntax a1111 and comfyui write (word:1.2)",
}
"""Marks of other programs, and what to do about each. Names of emoji have round brackets, which alone are none."""
_SAYS = re.compile(r"[^\W_]|[\u2600-\U0001faff]")  # a letter, a digit, or a picture


def notes_before(plan: Plan, components: Components, loras: Loras) -> list[str]:
    """The notes on a call's texts and sizes, each one sentence."""
    call, texts = plan.call, dict.fromkeys((*plan.prompts, *plan.negative_prompts))
    notes = [note for note in [size_note(components.config, plan.preset.height, plan.preset.width)] if note]
    if call.conditioning is None and call.image is None and not all(prompt.strip() for prompt in plan.prompts):
        notes.append("the prompt is empty, so nothing says what the image shows")
    notes += _unused(plan)
    notes += _unlearned(plan, components, " ".join(each.lora.captions for each in loras))
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


def notes_after(latents: Tensor, plan: Plan) -> list[str]:
    """At most one note, on final latents [N,C,h,w] that no image has: a solver diverged, or guidance was too strong."""
    if plan.request.denoising_end is not None:  # still noisy
        return []
    deviations = dict(enumerate(latents.flatten(1).std(dim=1).tolist()))
    outside = [image for image, deviation in deviations.items() if deviation > LARGEST_DEVIATION]
    if not outside:
        return []
    preset = plan.preset
    advice = [f"a lower guidance_scale than {preset.guidance_scale:g}"] if plan.guided else []
    advice += [f"more steps than {preset.num_inference_steps}"]
    advice += [f"sampler={STEADY!r} in place of {preset.sampler!r}"] if preset.sampler != STEADY else []
    return [
        f"the latents of image {', '.join(map(str, outside[:MOST]))} left the range of the training images, so colours "
        "and shapes are wrong: their standard deviation is "
        f"{max(deviations[image] for image in outside):.1f}, where images have about 1; use {' or '.join(advice)}"
    ]


def _unlearned(plan: Plan, components: Components, taught: str) -> Iterator[str]:
    """Words that neither the model learned, nor a LoRA from the captions ``taught``."""
    table, syntax = components.text_encoder.token_embedding.weight, plan.request.prompt_syntax
    parts = [part for parts in (*plan.parts, plan.negative_parts) for part in parts]
    texts = dict.fromkeys(text for part in parts for text in part.texts)
    found = (untrained_words(text, components.tokenizer, table, syntax, components.words) for text in texts)
    known = {word for word, _ in components.tokenizer.words(taught)}
    words = dict.fromkeys(word for own in found for word in own if _SAYS.search(word) and word not in known)
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


def _unused(plan: Plan) -> Iterator[str]:
    """Options that this call does not read."""
    if any(text.strip() for text in plan.negative_prompts) and not plan.guided:
        scale = plan.preset.guidance_scale
        yield f"negative_prompt is not read: at guidance_scale {scale:g} guidance is off"
    for name in image_options() if plan.call.image is None else ():
        if (value := getattr(plan.call, name)) != getattr(Request, name):
            yield f"{name} {value:g} is not read: it needs an image"
