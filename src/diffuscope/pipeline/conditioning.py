"""What the U-Net reads beside the latents: text states, pooled text, sizes, guidance scale; and the Denoisers of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.diffusion.prediction import denoiser
from diffuscope.loading import Components
from diffuscope.models.unet import UNet
from diffuscope.pipeline import guidance
from diffuscope.pipeline.guidance import CondUncond
from diffuscope.pipeline.plan import Plan
from diffuscope.prompt import encode_all
from diffuscope.types import Conditioning, Denoiser, Tap


@dataclass(frozen=True)
class UNetInputs:
    """One row per image."""

    context: Tensor
    """[N,T,D] text states."""
    extra: Mapping[str, Tensor]
    """What ``UNet.forward`` takes as ``extra``, [N,...] each."""

    def __add__(self, other: Self) -> "UNetInputs":
        """The rows of both."""
        extra = {name: torch.cat([value, other.extra[name]]) for name, value in self.extra.items()}
        return UNetInputs(torch.cat([self.context, other.context]), extra)


def encoded(
    components: Components, plan: Plan, conditioning: Conditioning | None, tap: Tap | None
) -> tuple[UNetInputs, UNetInputs | None]:
    """Inputs for the prompts, or for conditioning in their place, and for the negative prompts if the run is guided."""
    negative = plan.negative_prompts if plan.guided else ()
    prompts = plan.prompts if conditioning is None else ()
    uncond = None
    if negative or prompts:
        states = encode_all([*negative, *prompts], components.towers, tap, skip=plan.request.clip_skip)
        if negative:
            uncond = _rows(states, slice(len(negative)))
        if conditioning is None:
            conditioning = _rows(states, slice(len(negative), None))
    assert conditioning is not None
    if uncond is not None and components.config.zero_negative and plan.request.negative_prompt is None:
        uncond = _zeroed(uncond)
    cond = _per_image(components, plan, conditioning, plan.sizes)
    return cond, None if uncond is None else _per_image(components, plan, uncond, plan.negative_sizes)


def denoisers_of(
    unet: UNet,
    config: ModelConfig,
    plan: Plan,
    inputs: tuple[UNetInputs, UNetInputs | None],
    channels: Tensor | None,
    tap: Tap | None,
) -> tuple[Denoiser, Denoiser]:
    """The U-Net as a Denoiser, with classifier-free guidance where the run is guided; and without.

    Args:
        unet: the network.
        config: of the model.
        plan: of the call.
        inputs: for the prompts, and for the negative prompts.
        channels: [N,C,h,w] further input channels of a model that inpaints or edits an image.
        tap: reads or replaces activations.
    """
    weight = unet.conv_in.weight

    def one(row: UNetInputs, channels: Tensor | None = channels) -> Denoiser:
        context = row.context.to(weight.device, weight.dtype)
        extra = {name: value.to(weight.device) for name, value in row.extra.items()} or None

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if channels is not None:
                x = torch.cat([x, channels.repeat(len(x) // len(channels), 1, 1, 1)], dim=1)
            return unet(x.to(weight.dtype), time, context, extra=extra, tap=tap)

        return denoiser(predict, plan.levels, config.schedule.prediction)

    cond, uncond = inputs
    alone = one(cond)
    if uncond is None:
        return alone, alone
    same = uncond.context.shape == cond.context.shape
    if config.edits:  # without the text, and without text and image
        assert channels is not None
        none = torch.zeros_like(channels)
        rows = one(uncond + uncond + cond, torch.cat([none, channels, channels])) if same else None
        estimates = CondUncond(alone, one(uncond), rows, one(uncond, none), always_all=tap is not None)
    else:
        both = one(uncond + cond) if same else None
        estimates = CondUncond(alone, one(uncond), both, always_all=tap is not None)
    return guidance.denoiser_of(estimates, plan.request, plan.levels.sigmas, config.schedule.prediction), alone


def _rows(states: Conditioning, rows: slice) -> Conditioning:
    pooled = None if states.pooled is None else states.pooled[rows]
    return Conditioning(states.embeddings[rows], pooled=pooled)


def _zeroed(states: Conditioning) -> Conditioning:
    """Zeros in the place of the states of a text that was not given."""
    pooled = None if states.pooled is None else torch.zeros_like(states.pooled)
    return replace(states, embeddings=torch.zeros_like(states.embeddings), pooled=pooled)


def _per_image(components: Components, plan: Plan, states: Conditioning, sizes: Sequence[float]) -> UNetInputs:
    """The states of prompts as inputs of images, with size and scale conditioning."""
    count, device = plan.request.num_images_per_prompt, components.unet.conv_in.weight.device
    extra: dict[str, Tensor] = {}
    if components.config.unet.extra_dim is not None:
        assert states.pooled is not None
        extra["pooled"] = states.pooled.to(device).repeat_interleave(count, dim=0)
        extra["sizes"] = torch.tensor(sizes).expand(plan.images, -1)
    if components.config.unet.guidance_dim is not None:
        extra["guidance"] = torch.full((plan.images,), plan.preset.guidance_scale)
    if components.config.unet.step_dim is not None:
        step_size = components.config.schedule.train_steps / plan.preset.num_inference_steps
        extra["step_size"] = torch.full((plan.images,), step_size)
    return UNetInputs(states.embeddings.to(device).repeat_interleave(count, dim=0), extra)
