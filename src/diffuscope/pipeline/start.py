"""Everything between a checked request and its first step: text, start latents, the Denoiser, the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.inpaint import blend_known
from diffuscope.diffusion.noise import BrownianNoise, PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS, TABLE
from diffuscope.diffusion.thresholding import thresholded
from diffuscope.errors import InputError
from diffuscope.images import image_hash, to_pixels
from diffuscope.pipeline import codec, guiding
from diffuscope.pipeline.pictures import mask_pixels
from diffuscope.pipeline.receipt import CLIP, checksums, dtype_name, of_request
from diffuscope.pipeline.result import Result
from diffuscope.pipeline.run import Run
from diffuscope.pipeline.told import denoisers_of, told
from diffuscope.prompt import truncation_notice
from diffuscope.types import Conditioning, Denoiser, Levels, Noise, Step, Tap

if TYPE_CHECKING:
    from diffuscope.pipeline.pipeline import Pipeline
    from diffuscope.pipeline.receipt import Receipt
    from diffuscope.pipeline.request import Request


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What a call may give beyond plain values; a receipt can only say that it was there."""

    image: tuple[Image.Image, ...] | None = None
    """RGB, of the request's size, one per image."""
    mask: tuple[Image.Image, ...] | None = None
    """Black and white, of the request's size, one per image."""
    clean: Tensor | None = None
    """[N,C,h,w] latents in the place of an image; those of another model that stopped early still have noise."""
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


@dataclass(frozen=True, kw_only=True)
class Inpainting:
    """What a run with a mask needs: ``beside`` for a U-Net that reads masks, ``clean`` and ``noise`` for another."""

    mask: Tensor
    """[N,1,h,w], 1 where the picture is made anew, 0 where it stays."""
    clean: Tensor | None = None
    """[N,C,h,w] the picture's latents."""
    noise: Tensor | None = None
    """[N,C,h,w] of unit variance, the start noise."""
    beside: Tensor | None = None
    """[N,1+C,h,w] the mask, and the latents of the picture in which the masked places are grey."""

    def blend_known(self, steps: Iterator[Step], levels: Levels) -> Iterator[Step]:
        """The steps, in which what is not masked stays as it is."""
        if self.clean is None or self.noise is None:
            return steps
        return blend_known(steps, self.clean, self.noise, self.mask, levels)


def begin(pipe: Pipeline, request: Request, extras: Extras) -> Run:
    """A run of the request. The texts are encoded here; the U-Net is first called by the run's first step."""
    receipt = _receipt(pipe, request, extras)
    noise = PerImageNoise(request.seed)
    similar = None
    with torch.inference_mode(False), torch.no_grad():
        if (text := request.guidance_options.get(guiding.TEXT)) is not None:
            similar = pipe.similarity.loss(text)
            receipt["notes"] += pipe.similarity.notes(text)
        with pipe.adapters.encoding(extras.loras):
            texts = told(pipe, request, extras.conditioning, extras.tap)
        x, inpainting = _start(pipe, request, extras, noise, receipt["notes"])
    beside = None if inpainting is None else inpainting.beside
    alike = denoisers_of(pipe, request, texts, beside, extras.tap)
    denoise, cond = (pipe.adapters.during(each, extras.loras) for each in alike)
    denoise = guiding.losses(denoise, cond, request, partial(codec.shares, pipe.vae), similar)
    for change in extras.guidance:
        denoise = change(denoise)
        if not callable(denoise):
            raise InputError(f"a function of guidance returned a {type(denoise).__name__}; it must return a Denoiser")
    denoise = thresholded(denoise, **request.thresholding)
    steps = pipe.adapters.settling(_solved(request, denoise, x, noise))
    if inpainting is not None:
        steps = inpainting.blend_known(steps, request.levels)

    def finish(latents: Tensor, receipt: Receipt) -> Result:
        pixels = codec.decode(pipe.vae, latents, extras.tap, receipt["notes"])
        pictures = codec.pictures(pixels, pipe.upscaler if request.upscale > 1 else None)
        receipt["weights"] = pipe.weights | ({} if similar is None else {CLIP: pipe.clip_hash})
        return Result(pictures, latents.cpu(), list(request.seed), receipt)

    return Run(steps, request.levels, receipt, finish)


def _solved(request: Request, denoise: Denoiser, x: Tensor, noise: PerImageNoise) -> Iterator[Step]:
    """The sampler's steps, with the noise and the options that its kind asks for."""
    info, levels = TABLE[request.sampler], request.levels
    drawn: Noise = noise
    if info.noise == "brownian":  # up to the model's highest level, so that a seed's path is the same in every run
        drawn = BrownianNoise(request.seed, max(levels.sigmas[0], math.exp(levels.log_sigmas[-1])))
    table = {"log_sigmas": levels.log_sigmas} if info.takes_log_sigmas else {}
    steps = SAMPLERS[info.name](denoise, x, request.planned, noise=drawn, **table, **request.sampler_options)
    return islice(steps, len(levels.sigmas) - 1)


def _receipt(pipe: Pipeline, request: Request, extras: Extras) -> Receipt:
    receipt = of_request(request)
    receipt["prompt"] = list(extras.written)
    receipt["loras"] = pipe.adapters.named(extras.loras)
    receipt["embeddings"] = pipe.words.used((*request.prompt, *request.negative_prompt))
    receipt["model"] = pipe.config.name
    receipt["vae"] = pipe.components.vae_name
    receipt["schedule"] = {"prediction": pipe.config.schedule.prediction, "zero_snr": pipe.config.schedule.zero_snr}
    receipt["device"] = pipe.device.type
    receipt["dtype"] = dtype_name(pipe.dtype)
    receipt["threads"] = torch.get_num_threads()
    receipt["image"] = None if extras.image is None else [image_hash(image) for image in extras.image]
    if extras.clean is not None:
        receipt["image"] = checksums(extras.clean)
    receipt["mask_image"] = None if extras.mask is None else [image_hash(mask) for mask in extras.mask]
    receipt["edits"] = extras.edits
    receipt["checks"] = []
    texts = dict.fromkeys((*request.prompt, *request.negative_prompt))
    receipt["notes"] = pipe.adapters.notes(extras.loras)
    receipt["notes"] += [note for text in texts if (note := truncation_notice(text, pipe.tokenizer))]
    return receipt


def _start(
    pipe: Pipeline, request: Request, extras: Extras, noise: PerImageNoise, notes: list[str]
) -> tuple[Tensor, Inpainting | None]:
    """[N,C,h,w] float32 latents at the run's first noise level, and what inpainting needs.

    Draws, those that are needed: the encoder's sample, the start noise, the encoder's sample of what stays.
    """
    factor, channels = pipe.config.vae.factor, pipe.config.vae.latent_channels
    shape = (channels, request.height // factor, request.width // factor)
    scale = request.levels.start_scale
    if extras.latents is not None:
        return extras.latents.to(pipe.device, torch.float32) * scale, None
    if extras.clean is not None:
        given = extras.clean.to(pipe.device, torch.float32)
        if request.denoising_start is not None:
            return given * scale, None
        return given + noise.draw(shape).to(pipe.device) * scale, None
    if extras.image is None:
        return noise.draw(shape).to(pipe.device) * scale, None

    def encoded(pixels: Tensor) -> Tensor:
        return codec.encode(pipe.vae, pixels, noise.draw(shape), extras.tap, notes)

    pixels = to_pixels(extras.image)
    anew = extras.mask is not None and request.strength == 1.0
    clean = None if anew and pipe.config.inpaints else encoded(pixels)
    drawn = noise.draw(shape).to(pipe.device)
    x = drawn * scale if clean is None or anew else clean + drawn * scale
    if extras.mask is None:
        return x, None
    mask = mask_pixels(extras.mask)
    small = mask[:, :, ::factor, ::factor].to(pipe.device)
    if not pipe.config.inpaints:
        return x, Inpainting(mask=small, clean=clean, noise=drawn)
    masked = encoded(pixels * (1 - mask))
    return x, Inpainting(mask=small, beside=torch.cat([small, masked], dim=1))
