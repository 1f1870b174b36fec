"""A call against a model: everything that can be checked and filled in before a network runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from inspect import Parameter
from typing import TypeVar

from torch import Generator, Tensor

from diffuscope import fitting
from diffuscope.config import ModelConfig, Preset
from diffuscope.diffusion import samplers
from diffuscope.diffusion.samplers import SamplerInfo, SamplerMatch
from diffuscope.diffusion.schedules import Schedule, img2img_levels, slice_levels
from diffuscope.errors import InputError, Unquoted, nearest
from diffuscope.loading import Components
from diffuscope.perf import memory
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import branching, generators, guidance
from diffuscope.pipeline.inputs import Call
from diffuscope.prompt.lora_tags import parse_lora_tags
from diffuscope.prompt.parts import Part, parts_of
from diffuscope.request import Request, Texts
from diffuscope.schema import conformed, options
from diffuscope.types import Conditioning, Levels

T = TypeVar("T")
MAX_IMAGES = 1024  # of a call


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A call with nothing left open. Image k has prompt ``k // num_images_per_prompt``."""

    call: Call  # as it was given
    request: Request  # the call's options with the preset filled in, as a receipt has them
    preset: Preset  # the preset with the call's options filled in
    prompts: tuple[str, ...]  # without LoRA tags; empty texts in the place of conditioning
    parts: tuple[tuple[Part, ...], ...]  # for each prompt those that AND joins; one without AND
    negative_parts: tuple[Part, ...]  # one per prompt
    negative_prompts: tuple[str, ...]  # one per prompt; empty where there are none
    seeds: tuple[int, ...]  # one per image
    generators: tuple[Generator, ...]  # one per image, where the call has generators; they draw the noise
    loras: Mapping[str, float]  # name -> weight of those that the prompts name
    sampler: SamplerInfo
    levels: Levels  # what the run visits: for img2img the last part of the schedule
    planned_sigmas: tuple[float, ...]  # what the sampler gets: with ``denoising_end`` the rest of the schedule too
    guided: bool  # whether the U-Net runs for the negative prompts too
    passes: int  # rows of the U-Net for an image: 1, 2 in a guided run, 3 in one that is guided by an image too
    sizes: tuple[float, ...]  # SDXL's size conditioning; empty where the model has none
    negative_sizes: tuple[float, ...]
    edits: tuple[str, ...]  # the names of the inputs that no receipt can hold
    branch: "Branched | None" = None  # the run from which it goes on

    @property
    def images(self) -> int:
        """How many images the call makes."""
        return len(self.seeds)

    @property
    def lineage(self) -> list["Plan"]:
        """This plan, that from which it branches, and so on."""
        return [self, *([] if self.branch is None else self.branch.plan.lineage)]

    @property
    def batches(self) -> list[slice]:
        """The images that go through the networks together."""
        size = self.request.batch_size or self.images
        return [slice(first, min(first + size, self.images)) for first in range(0, self.images, size)]

    def per_image(self, values: Sequence[T]) -> tuple[T, ...]:
        """One value, or one per prompt, as one per image."""
        return tuple(values[k // self.request.num_images_per_prompt % len(values)] for k in range(self.images))


@dataclass(frozen=True)
class Branched:
    """The run from which a plan goes on."""

    step: int  # how many of its steps are kept
    plan: Plan
    x: Tensor | None  # [N,C,h,w] float32 latents in the place of those after these steps
    continues: bool  # whether its sampler goes on, with its history; else the plan's own begins


def plan(config: ModelConfig, schedule: Schedule, call: Call) -> Plan:
    """The call, checked against the model, with its preset filled in; an InputError where they do not fit."""
    if call.branch is None:
        return _plan(config, schedule, call, None)
    first = plan(config, schedule, branching.first_call(call, call.branch))
    own = _plan(config, schedule, branching.completed(call, first.request), first)
    branching.check(own.request, first.request)
    factor, size = config.vae.factor, (own.preset.height, own.preset.width)
    shape = (own.images, config.vae.latent_channels, *(side // factor for side in size))
    x = None if call.branch.x is None else branching.decoded(call.branch.x, shape)
    before, after = ((each.sampler, each.preset.sampler_options, each.planned_sigmas) for each in (first, own))
    return replace(
        own,
        call=call,
        request=replace(own.request, branch=replace(call.branch, request=first.request)),
        branch=Branched(call.branch.step, first, x, before == after),
        edits=tuple(dict.fromkeys((*first.edits, *own.edits))),
        passes=max(first.passes, own.passes),
    )


def in_memory(
    planned: Plan, config: ModelConfig, schedule: Schedule, components: Components, engine: Engine
) -> tuple[Plan, list[str]]:
    """The plan with as many images at once as memory has room for, and notes on what was done for it.

    A tap gets all images at once, so with one nothing changes. An OutOfMemoryError if not one image fits.
    """
    call, preset, images = planned.call, planned.preset, planned.batches[0].stop
    count = memory.images_at_once(components, engine, preset.width, preset.height, images, planned.passes)
    notes = [memory.OFFLOADED] if engine.offload.allowed and engine.offload.device is not None else []
    if count == images or call.tap is not None:
        return planned, notes
    call = replace(call, batch_size=count, seed=planned.seeds if call.generator is None else None)
    notes.append(f"memory is short, so the networks compute {count} of {images} images at once")
    return plan(config, schedule, call), notes


def _plan(config: ModelConfig, schedule: Schedule, call: Call, first: Plan | None) -> Plan:
    """The plan of a call, which goes on from the first one."""
    fitting.check(config, call)
    _check_image(config, call)
    written = texts_of(call.prompt) if call.states is None else ("",) * _rows(config, call.states)
    prompts, loras = untagged(written)
    images = len(prompts) * call.num_images_per_prompt
    if images > MAX_IMAGES:
        got = Unquoted(f"{len(prompts)} prompts x {call.num_images_per_prompt} images")
        raise InputError("num_images_per_prompt", got, f"at most {MAX_IMAGES} images in one call")
    drawing = generators.per_image(call.generator, images)
    replayable = generators.are_seeds(drawing)
    seeds = generators.seeds(drawing) if drawing else fitting.seeds_of(call.seed, images)
    sampler = samplers.find(config.preset.sampler if call.sampler is None else call.sampler)
    preset = _preset(config, call, sampler)
    levels = schedule.levels(
        preset.num_inference_steps, sampler=sampler.info.function, sigmas=preset.sigmas, final_sigma=preset.final_sigma
    )
    preset = replace(preset, num_inference_steps=len(levels.sigmas) - 1)
    levels, planned = _visited(levels, config, call, sampler.info.variance_preserving)
    if first is not None and call.branch is not None:
        levels = branching.joined(call.branch, first.levels, levels)
        planned = branching.following(call.branch.step, first.planned_sigmas, planned)
    negative = _negative_prompts(config, call, len(prompts))
    parts, negative_parts = _parts(config, call, prompts, negative, preset.num_inference_steps)
    guided = _is_guided(config, call, preset, parts)
    begins = 0 if call.branch is None else min(call.branch.step, len(levels.sigmas) - 2)
    guidance.check(call.guidance_options, preset.guidance_scale, levels.sigmas[begins:], guided=guided)
    _check_tap(call, len(seeds))
    sizes = fitting.sizes(config, call, preset)
    request = Request(
        **{option.name: getattr(call, option.name) for option in options(Request)}
        | {field.name: getattr(preset, field.name) for field in fields(Preset)}
        | {"prompt": written, "negative_prompt": None if call.negative_prompt is None else negative, "seed": seeds}
        | sizes.options
    )
    return Plan(
        call=call,
        request=request,
        preset=preset,
        prompts=prompts,
        parts=parts,
        negative_parts=negative_parts,
        negative_prompts=negative,
        seeds=seeds,
        generators=drawing,
        edits=(*call.edits, *(() if replayable else ("generator",))),
        loras=loras,
        sampler=sampler.info,
        levels=levels,
        planned_sigmas=planned,
        guided=guided,
        passes=1 + guided + (guided and config.edits),
        sizes=sizes.values,
        negative_sizes=sizes.negative,
    )


def _check_tap(call: Call, images: int) -> None:
    """A tap sees one call of the U-Net in each estimate, with the rows of all images."""
    if call.tap is None:
        return
    if call.guidance_options.exact:
        raise InputError("tap", call.tap, "None with guidance_options.exact, which calls the U-Net more often")
    if call.step_caching > 1:
        raise InputError("step_caching", call.step_caching, "1 with a tap")
    if call.token_merging > 0:
        raise InputError("token_merging", call.token_merging, "0 with a tap")
    if (call.batch_size or MAX_IMAGES) < images:
        raise InputError("tap", call.tap, f"None with batch_size below {images}, the number of images")


def _is_guided(config: ModelConfig, call: Call, preset: Preset, parts: Sequence[Sequence[Part]]) -> bool:
    """Whether the U-Net runs for the negative prompts too: by a scale, by an image's, or for composed prompts."""
    by_image = (preset.image_guidance_scale or 1.0) != 1.0
    on = by_image or _are_composed(parts) or guidance.is_on(call.guidance_options, preset.guidance_scale)
    return on and config.unet.guidance_dim is None


def _are_composed(parts: Sequence[Sequence[Part]]) -> bool:
    """Whether AND joins prompts, or one has a weight."""
    return any([part.weight for part in own] != [1.0] for own in parts)


def _check_image(config: ModelConfig, call: Call) -> None:
    """The image inputs are those that the model reads."""
    if config.inpaints and call.mask_image is None:
        raise InputError("mask_image", None, f"an image and a mask, since {config.name!r} is an inpainting model")
    if not config.edits:
        if call.latents is not None and call.image is not None:
            raise InputError("latents", call.latents, "None with image")
        return
    if call.image is None:
        raise InputError("image", None, f"the image to edit, since {config.name!r} is an InstructPix2Pix model")
    for name in ("mask_image", "denoising_start"):
        if getattr(call, name) is not None:
            raise InputError(name, getattr(call, name), f"None, since {config.name!r} edits the whole of an image")


def _parts(
    config: ModelConfig, call: Call, prompts: Sequence[str], negative: Sequence[str], steps: int
) -> tuple[tuple[tuple[Part, ...], ...], tuple[Part, ...]]:
    """The texts of the prompts and of the negative prompts, which may change during the run."""
    parts = tuple(parts_of(prompt, call.prompt_syntax, steps) for prompt in prompts)
    alone = config.edits or config.unet.guidance_dim is not None
    if alone and _are_composed(parts):
        got = Unquoted("prompts joined by AND, or with a weight after a colon")
        raise InputError("prompt", got, f"one without, since {config.name!r} compares no prompt with the negative one")
    return parts, tuple(parts_of(text, call.prompt_syntax, steps, negative=True)[0] for text in negative)


def texts_of(prompt: object) -> tuple[str, ...]:
    """One text or several as a tuple."""
    texts = conformed(prompt, Texts, "prompt")
    return (texts,) if isinstance(texts, str) else texts


def _rows(config: ModelConfig, conditioning: Conditioning) -> int:
    """The number of rows of conditioning, whose shapes are checked."""
    width, shape = config.unet.context_dim, list(conditioning.embeddings.shape)
    if len(shape) != 3 or shape[-1] != width or 0 in shape:
        raise InputError("conditioning", conditioning.embeddings, f"embeddings of shape [B,T,{width}]")
    if config.unet.extra_dim is not None:
        wanted, pooled = [shape[0], config.pooled_dim], conditioning.pooled
        if pooled is None or list(pooled.shape) != wanted:
            raise InputError("conditioning", pooled, f"pooled text of shape {wanted}")
    return shape[0]


def untagged(prompts: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, float]]:
    """The prompts without their LoRA tags, and the weights in the tags."""
    tagged = [parse_lora_tags(prompt) for prompt in prompts]
    if any(each.loras != tagged[0].loras for each in tagged):
        got = Unquoted("prompts with different LoRA tags")
        raise InputError("prompt", got, "the same tags in all prompts of a call", "Call once for each set of LoRAs")
    return tuple(each.text for each in tagged), tagged[0].loras


def _negative_prompts(config: ModelConfig, call: Call, prompts: int) -> tuple[str, ...]:
    given = call.negative_prompt or ""
    negative = (given,) * prompts if isinstance(given, str) else tuple(given)
    negative = negative * prompts if len(negative) == 1 else negative
    if len(negative) != prompts:
        raise InputError("negative_prompt", given, f"one string, or one per prompt ({prompts})")
    if any(parse_lora_tags(text).loras for text in negative):
        raise InputError("negative_prompt", given, "no LoRA tag", "Name the LoRA in the prompt")
    if any(negative) and config.unet.guidance_dim is not None:
        hint = f"{config.name!r} has learned guidance without one; write into the prompt what the image should show"
        raise InputError("negative_prompt", given, "none", hint)
    return negative


def _preset(config: ModelConfig, call: Call, sampler: SamplerMatch) -> Preset:
    """The model's preset with the call's options filled in; without a size it is that of the call's latents."""
    latents = call.image if isinstance(call.image, Tensor) else call.latents
    if latents is not None and latents.ndim == 4:
        height, width = (side * config.vae.factor for side in latents.shape[2:])
        call = replace(call, height=call.height or height, width=call.width or width)
    preset = fitting.filled(config, call, sampler.info.name, sampler.spacing)
    return replace(preset, sampler_options=_sampler_options(preset.sampler_options, sampler.info))


def _sampler_options(given: Mapping[str, bool | float | str], sampler: SamplerInfo) -> dict[str, bool | float | str]:
    """Options of a sampler, each of the type that it has there."""
    known = samplers.options(sampler.function)
    found: dict[str, bool | float | str] = {}
    for name, value in given.items():
        argument = f"sampler_options.{name}"
        if name not in known:
            listed = ", ".join(f"{key}={parameter.default!r}" for key, parameter in known.items()) or "none"
            raise InputError(argument, value, f"an option of {sampler.name}, which has {listed}", nearest(name, known))
        annotation = known[name].annotation  # of a stranger's function it may be missing, or a string
        is_type = annotation is not Parameter.empty and not isinstance(annotation, str)
        found[name] = conformed(value, annotation, argument) if is_type else value
    return found


def _visited(
    levels: Levels, config: ModelConfig, call: Call, variance_preserving: bool
) -> tuple[Levels, tuple[float, ...]]:
    """The part of the schedule that the run visits, and the sigmas that the sampler plans with."""
    if call.image is not None and call.denoising_start is None and not call.fills_from_noise and not config.edits:
        levels = img2img_levels(levels, call.strength)
    sliced = partial(slice_levels, schedule=config.schedule, variance_preserving=variance_preserving)
    if call.denoising_start is not None:
        levels = sliced(levels, denoising_start=call.denoising_start)
    whole = levels.sigmas
    return (levels if call.denoising_end is None else sliced(levels, denoising_end=call.denoising_end)), whole
