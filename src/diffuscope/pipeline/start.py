"""Everything between a checked request and its first step: text, start latents, the Denoiser, the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.guidance import guided, guided_in_one
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.prediction import denoiser
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.errors import InputError
from diffuscope.images import Pictures, fitted, open_picture, picture_hash
from diffuscope.pipeline import codec
from diffuscope.pipeline.receipt import dtype_name, of_request
from diffuscope.pipeline.result import Result
from diffuscope.pipeline.run import Run
from diffuscope.prompt import encode, what_was_cut
from diffuscope.types import Conditioning, Denoiser, Tap

if TYPE_CHECKING:
    from diffuscope.pipeline.pipeline import Pipeline
    from diffuscope.pipeline.receipt import Receipt
    from diffuscope.pipeline.request import Request


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a call may give beyond plain values; a receipt can only say that it was there."""

    image: tuple[Image.Image, ...] | None = None
    """RGB, of the request's size, one per image."""
    latents: Tensor | None = None
    conditioning: Conditioning | None = None
    guidance: Sequence[Callable[[Denoiser], Denoiser]] = ()
    tap: Tap | None = None
    written: tuple[str, ...] = ()
    """The prompts with their LoRA tags."""
    loras: Mapping[str, float] = field(default_factory=dict)
    """Name -> weight of each that the call uses."""

    @property
    def edits(self) -> list[str]:
        """The names of those that no receipt can repeat."""
        given = {
            "latents": self.latents is not None,
            "conditioning": self.conditioning is not None,
            "guidance": bool(self.guidance),
            "tap": self.tap is not None,
        }
        return [name for name, is_given in given.items() if is_given]


def start_images(image: Pictures | None, request: Request) -> tuple[Image.Image, ...] | None:
    """The picture that each image of the call starts from, of the request's size.

    Raises:
        InputError: not one picture, nor one per prompt.
        ImageError: a picture cannot be read.
    """
    if image is None:
        return None
    given = [*image] if isinstance(image, list | tuple) else [image]
    prompts = len(request.prompt)
    if len(given) not in {1, prompts}:
        raise InputError(f"{len(given)} start images for {prompts} prompts; give one, or one for each prompt")
    opened = [fitted(open_picture(each), request.width, request.height) for each in given]
    each_prompt = opened * prompts if len(opened) == 1 else opened
    return tuple(each_prompt[k // request.num_images_per_prompt] for k in range(request.images))


def begin(pipe: Pipeline, request: Request, extras: Extras) -> Run:
    """A run of the request. The texts are encoded here; the U-Net is first called by the run's first step."""
    receipt = _receipt(pipe, request, extras)
    noise = PerImageNoise(request.seed)
    with torch.inference_mode(False), torch.no_grad():
        with pipe.adapters.encoding(extras.loras):
            cond, uncond = _texts(pipe, request, extras)
        x = _start(pipe, request, extras, noise, receipt["notes"])
    denoise = pipe.adapters.during(_denoiser(pipe, request, cond, uncond, extras.tap), extras.loras)
    for change in extras.guidance:
        denoise = change(denoise)
    steps = pipe.adapters.settling(SAMPLERS[request.sampler](denoise, x, request.levels.sigmas, noise=noise))

    def finish(latents: Tensor, receipt: Receipt) -> Result:
        pixels = codec.decode(pipe.vae, latents, extras.tap, receipt["notes"])
        pictures = codec.pictures(pixels, pipe.upscaler if request.upscale > 1 else None)
        receipt["weights"] = pipe.weights
        return Result(pictures, latents.cpu(), list(request.seed), receipt)

    return Run(steps, request.levels, receipt, finish)


def _receipt(pipe: Pipeline, request: Request, extras: Extras) -> Receipt:
    receipt = of_request(request)
    receipt["prompt"] = list(extras.written)
    receipt["loras"] = pipe.adapters.named(extras.loras)
    receipt["model"] = pipe.config.name
    receipt["device"] = pipe.device.type
    receipt["dtype"] = dtype_name(pipe.dtype)
    receipt["threads"] = torch.get_num_threads()
    receipt["image"] = None if extras.image is None else [picture_hash(image) for image in extras.image]
    receipt["edits"] = extras.edits
    receipt["checks"] = []
    texts = dict.fromkeys((*request.prompt, *request.negative_prompt))
    receipt["notes"] = [note for text in texts if (note := what_was_cut(text, pipe.tokenizer))]
    return receipt


def _texts(pipe: Pipeline, request: Request, extras: Extras) -> tuple[Tensor, Tensor | None]:
    """Text states [N,T,D] of each image's prompt and of its negative prompt; None where nothing guides."""
    count = request.num_images_per_prompt
    negative = () if request.guidance_scale == 1.0 else request.negative_prompt
    prompts = request.prompt if extras.conditioning is None else ()
    states = None
    if negative or prompts:
        states = encode([*negative, *prompts], pipe.tokenizer, pipe.text_encoder, extras.tap).embeddings
        states = states.repeat_interleave(count, dim=0)
    rows = len(negative) * count
    if extras.conditioning is not None:
        cond = extras.conditioning.embeddings.to(pipe.device).repeat_interleave(count, dim=0)
    else:
        assert states is not None
        cond = states[rows:]
    return cond, states[:rows] if negative and states is not None else None


def _start(pipe: Pipeline, request: Request, extras: Extras, noise: PerImageNoise, notes: list[str]) -> Tensor:
    """[N,C,h,w] float32 latents at the run's first noise level. Draws: the encoder's sample, then the start noise."""
    factor, channels = pipe.config.vae.factor, pipe.config.vae.latent_channels
    shape = (channels, request.height // factor, request.width // factor)
    scale = request.levels.start_scale
    if extras.latents is not None:
        return extras.latents.to(pipe.device, torch.float32) * scale
    if extras.image is None:
        return noise.draw(shape).to(pipe.device) * scale
    clean = codec.encode(pipe.vae, extras.image, noise.draw(shape), extras.tap, notes)
    return clean + noise.draw(shape).to(pipe.device) * scale


def _denoiser(pipe: Pipeline, request: Request, cond: Tensor, uncond: Tensor | None, tap: Tap | None) -> Denoiser:
    """The U-Net with its texts as one Denoiser; guided where there are unconditional states."""

    def told(context: Tensor) -> Denoiser:
        context = context.to(pipe.device, pipe.dtype)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            return pipe.unet(x.to(pipe.dtype), time, context, tap=tap)

        return denoiser(predict, request.levels, pipe.config.schedule.prediction)

    if uncond is None:
        return told(cond)
    if uncond.shape == cond.shape:
        return guided_in_one(told(torch.cat([uncond, cond])), request.guidance_scale)
    # Edited conditioning may have another length, which does not go into one batch.
    return guided(told(cond), told(uncond), request.guidance_scale)
