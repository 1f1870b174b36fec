"""What one request contributes to a run: all steps, or those before a branch."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diffuscope.adapters.loras import Adapters
from diffuscope.adapters.merging import Loras
from diffuscope.diffusion.loss_guidance import Loss
from diffuscope.diffusion.thresholding import thresholded
from diffuscope.errors import InputError, Unquoted
from diffuscope.loading import Components
from diffuscope.models.vae import VAE
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import codec, conditioning, guidance
from diffuscope.pipeline.answers import Answers
from diffuscope.pipeline.conditioning import Encoded
from diffuscope.pipeline.denoisers import denoisers_of
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.taps import selected
from diffuscope.types import Denoiser, Step, Tap
from diffuscope.vision.clip_score import ClipScore

Texts = tuple[Encoded, Loss | None]  # of a request, encoded; and the loss of a text that guides it


class Segment(NamedTuple):
    """A request of a run."""

    plan: Plan
    loras: Loras
    tap: Tap | None


class Segments(NamedTuple):
    """The requests of a run: its own, that from which it branches, and so on."""

    loras: list[Loras]  # of all of them
    live: list[Segment]  # those whose answers are not recorded
    replayed: int  # how many steps are recorded


def segments(components: Components, adapters: Adapters, plan: Plan) -> Segments:
    """The requests of a plan; an InputError for the answers of another run."""
    plans, answers = plan.lineage, plan.call.answers
    replayed = _replayed(answers, plan)
    ends = [len(plan.levels.sigmas), *(each.branch.step for each in plans if each.branch is not None)]
    loras = [adapters.of_call(own.loras, depth) for depth, own in enumerate(plans)]
    if answers is not None and answers.loras[1 - len(plans) :] != loras[1:]:
        got = Unquoted("those of a run with other LoRAs")
        raise InputError("answers", got, "those of the run that branches", "Set its LoRAs again, or leave answers out")
    networks = tuple(components.networks.values())
    live = [
        Segment(own, lora, selected(own.call.tap, networks, own))
        for own, lora, end in zip(plans, loras, ends, strict=True)
        if end > replayed
    ]
    return Segments(loras, live, replayed)


def _replayed(answers: Answers | None, plan: Plan) -> int:
    """The number of steps whose answers are recorded."""
    if answers is None:
        return 0
    if plan.branch is None:
        raise InputError("answers", Unquoted("those of a run"), "None without branch")
    if not answers.covers(plan.branch.plan.request, plan.branch.step):
        raise InputError("answers", Unquoted("those of another run"), "those of the run that branches")
    return min(plan.branch.step, answers.complete)


def latents(plan: Plan) -> dict[int, Tensor]:
    """The latents [N,C,h,w] that replace those of a run, by the number of steps before."""
    branches = [each.branch for each in reversed(plan.lineage)]
    return {each.step: each.x for each in branches if each is not None and each.x is not None}


def with_latents(steps: Iterator[Step], latents: Mapping[int, Tensor]) -> Iterator[Step]:
    """The steps of a run, with what replaces its latents in ``step.x``."""
    for step in steps:
        if step.index + 1 in latents:
            step.x = latents[step.index + 1].to(step.x, copy=True)
        yield step


def encoded(
    components: Components,
    adapters: Adapters,
    engine: Engine,
    clip: Callable[[], ClipScore],
    segment: Segment,
    notes: list[str],
) -> Texts:
    """The texts of a request; ``clip`` is asked for the loss of a text that guides it."""
    text, loss = segment.plan.call.guidance_options.similarity, None
    with adapters.in_text_encoders(segment.loras):
        if text is not None:
            notes += clip().notes(text)
            loss = clip().loss(text)
        return conditioning.encoded(components, segment.plan, segment.tap, engine.read_text), loss


def denoiser(
    components: Components,
    adapters: Adapters,
    engine: Engine,
    parts: Segments,
    texts: list[Texts],
    channels: Tensor | None,
    now: Answers,
) -> Denoiser:
    """The Denoiser of a run: that of each request in its steps, or what was recorded. ``texts`` are of the live ones.

    ``channels`` [N,C,h,w] are further input channels of a model that inpaints or edits an image.
    """
    unet, config, each = components.unet, components.config, list[Denoiser]()
    for own, (states, loss) in zip(parts.live, texts, strict=True):
        found = denoisers_of(unet, config, own.plan, states, channels, own.tap, now, engine)
        guided = _guided(components.vae, own, found.guided, found.cond, loss, engine)
        each.append(adapters.with_loras(guided, own.loras))
    denoise = each.pop()
    while each:
        branch = parts.live[len(each) - 1].plan.branch
        assert branch is not None
        denoise = _switched(denoise, each.pop(), branch.step, now)
    answers = parts.live[0].plan.call.answers
    if answers is not None and parts.replayed:
        denoise = answers.replayed(denoise, parts.replayed, now)
    return now.recorded(denoise) if now.budget else denoise


def _switched(before: Denoiser, after: Denoiser, step: int, now: Answers) -> Denoiser:
    """``before`` in the first ``step`` steps, then ``after``."""
    return lambda x, sigma: (before if now.step < step else after)(x, sigma)


def _guided(
    vae: VAE, segment: Segment, denoise: Denoiser, cond: Denoiser, loss: Loss | None, engine: Engine
) -> Denoiser:
    """The Denoiser with the call's losses, guidance functions and thresholding."""
    call, options = segment.plan.call, segment.plan.call.guidance_options

    def decode(latents: Tensor) -> Tensor:
        return torch.cat([codec.decode_differentiable(vae, latents[images]) for images in segment.plan.batches])

    denoise = guidance.loss_guided(denoise, cond, options, decode, loss)
    for change in call.functions:
        denoise = change(denoise)
        if not callable(denoise):
            raise InputError("guidance", denoise, "functions that return a Denoiser")
        denoise = guidance.checked(denoise)
    denoise = thresholded(denoise, **vars(call.thresholding))
    if options.colour is None and options.similarity is None and not call.functions:
        return denoise

    def decoding(x: Tensor, sigma: float) -> Tensor:
        with engine.using(vae):  # until the gradient through it is there
            return denoise(x, sigma)

    return decoding
