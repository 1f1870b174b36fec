"""What the U-Net reads beside the latents: text states, pooled text, sizes, guidance scale; at each step of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.loading import Components
from diffuscope.pipeline.plan import Plan
from diffuscope.prompt.encoding import Run, encode_groups
from diffuscope.types import Conditioning, Tap


@dataclass(frozen=True)
class UNetInputs:
    """One row per image."""

    contexts: tuple[Tensor, ...]  # [T,D] text states of each image; T may differ
    extra: Mapping[str, Tensor]  # what ``UNet.forward`` takes as ``extra``, [N,...] each

    def __add__(self, other: Self) -> "UNetInputs":
        """The rows of both."""
        extra = {name: torch.cat([value, other.extra[name]]) for name, value in self.extra.items()}
        return UNetInputs((*self.contexts, *other.contexts), extra)

    def lengths(self) -> dict[int, list[int]]:
        """Each T, and the images that have it."""
        found: dict[int, list[int]] = {}
        for image, context in enumerate(self.contexts):
            found.setdefault(len(context), []).append(image)
        return found

    def some(self, images: slice) -> "UNetInputs":
        """Those of some images."""
        return UNetInputs(self.contexts[images], {name: value[images] for name, value in self.extra.items()})

    def rows(self, images: Sequence[int]) -> tuple[Tensor, Mapping[str, Tensor] | None]:
        """[n,T,D] text states of images that share one T, and their ``extra``."""
        extra = {name: value[list(images)] for name, value in self.extra.items()}
        return torch.stack([self.contexts[image] for image in images]), extra or None


@dataclass(frozen=True)
class Encoded:
    """The encoded texts of a run."""

    prompts: tuple[tuple[Conditioning, ...], ...]  # of each prompt its parts; the rows are the entries of its schedule
    negatives: tuple[Conditioning, ...] | None  # of each prompt its negative prompt; None in a run without guidance


@dataclass(frozen=True)
class Stage:
    """What the U-Net reads in some steps of a run."""

    parts: tuple[UNetInputs, ...]  # of each image the first prompt that AND joins, the second, and so on
    weights: Tensor  # [parts,N] on the CPU; 0 where an image has fewer parts
    negative: UNetInputs | None

    def some(self, images: slice) -> "Stage":
        """Of some images, without parts that none of them has."""
        weights = self.weights[:, images]
        kept = [k for k in range(len(self.parts)) if k == 0 or bool(weights[k].any())]
        parts = tuple(self.parts[k].some(images) for k in kept)
        return Stage(parts, weights[kept], None if self.negative is None else self.negative.some(images))


def encoded(components: Components, plan: Plan, tap: Tap | None, run: Run) -> Encoded:
    """The states of the prompts, or conditioning in their place, and of the negative prompts if the run is guided."""
    request, conditioning, prompts, negatives = plan.request, plan.call.states, [], []
    for batch in prompts_of(plan):
        negative = [part.texts for part in plan.negative_parts[batch]] if plan.guided else []
        own = plan.parts[batch] if conditioning is None else ()
        groups = [*negative, *(part.texts for parts in own for part in parts)]
        if not groups:
            continue
        found = encode_groups(
            groups, components.towers, tap, skip=request.clip_skip, syntax=request.prompt_syntax, run=run
        )
        states = iter(found)
        negatives += [next(states) for _ in negative]
        prompts += [tuple(next(states) for _ in parts) for parts in own]
    if components.config.zero_negative and request.negative_prompt is None:
        negatives = [_zeroed(each) for each in negatives]
    if conditioning is not None:
        prompts = [(_row(conditioning, row),) for row in range(len(conditioning.embeddings))]
    return Encoded(tuple(prompts), tuple(negatives) if plan.guided else None)


def prompts_of(plan: Plan) -> list[slice]:
    """The prompts that are encoded together: those whose first image is in one batch."""
    each = plan.request.num_images_per_prompt
    return [slice(-(-batch.start // each), -(-batch.stop // each)) for batch in plan.batches]


def entries_at(plan: Plan, step: int) -> tuple[int, ...]:
    """Which entry of each schedule is read at a step; equal for steps that read the same."""
    return tuple(part.at(step) for parts in (*plan.parts, plan.negative_parts) for part in parts)


def stage_at(config: ModelConfig, plan: Plan, texts: Encoded, step: int, device: torch.device) -> Stage:
    """What the U-Net reads at a step."""
    most = max(map(len, plan.parts))
    chosen = [
        [_row(states, part.at(step)) for part, states in zip(parts, own, strict=True)]
        for parts, own in zip(plan.parts, texts.prompts, strict=True)
    ]
    negative = None
    if texts.negatives is not None:
        rows = [_row(own, part.at(step)) for part, own in zip(plan.negative_parts, texts.negatives, strict=True)]
        negative = _per_image(config, plan, rows, plan.negative_sizes, device)
    weights = [[part.weight for part in parts] + [0.0] * (most - len(parts)) for parts in plan.parts]
    each = [[*rows, *rows[:1] * (most - len(rows))] for rows in map(_of_one_length, chosen)]
    return Stage(
        parts=tuple(_per_image(config, plan, [rows[k] for rows in each], plan.sizes, device) for k in range(most)),
        weights=torch.tensor(plan.per_image(weights)).T,
        negative=negative,
    )


def _row(states: Conditioning, row: int) -> Conditioning:
    """One text, with an axis of 1."""
    pooled = None if states.pooled is None else states.pooled[row : row + 1]
    return Conditioning(states.embeddings[row : row + 1], pooled=pooled)


def _of_one_length(rows: list[Conditioning]) -> list[Conditioning]:
    """Prompts that AND joins: the last state of a shorter one is repeated, as the web UI does."""
    longest = max(row.embeddings.shape[1] for row in rows)
    return [
        replace(row, embeddings=torch.cat([x, x[:, -1:].expand(-1, longest - x.shape[1], -1)], dim=1))
        for row in rows
        for x in [row.embeddings]
    ]


def _zeroed(states: Conditioning) -> Conditioning:
    """Zeros in the place of the states of a text that was not given."""
    pooled = None if states.pooled is None else torch.zeros_like(states.pooled)
    return replace(states, embeddings=torch.zeros_like(states.embeddings), pooled=pooled)


def _per_image(
    config: ModelConfig, plan: Plan, rows: Sequence[Conditioning], sizes: Sequence[float], device: torch.device
) -> UNetInputs:
    """The states of prompts as inputs of images, with size and scale conditioning."""
    images = plan.per_image(rows)
    extra: dict[str, Tensor] = {}
    if config.unet.extra_dim is not None:
        pools = [row.pooled for row in images if row.pooled is not None]
        extra["pooled"] = torch.cat(pools).to(device)
        extra["sizes"] = torch.tensor(sizes).expand(plan.images, -1)
    if config.unet.guidance_dim is not None:
        extra["guidance"] = torch.full((plan.images,), plan.preset.guidance_scale)
    if config.unet.step_dim is not None:
        step_size = config.schedule.train_steps / plan.preset.num_inference_steps
        extra["step_size"] = torch.full((plan.images,), step_size)
    return UNetInputs(tuple(row.embeddings[0].to(device) for row in images), extra)
