"""The Pipeline: a model's parts as attributes, and the calls that make pictures with them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from diffuscope import loading
from diffuscope.clip_score import ClipScore, load_clip_score
from diffuscope.config import FinalSigma
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import InputError
from diffuscope.images import ImageSources, fit_to_size, open_image, to_pixels
from diffuscope.loading import Components
from diffuscope.models.upscaler import Upscaler
from diffuscope.pipeline import codec, receipt, saving, start
from diffuscope.pipeline import request as requests
from diffuscope.pipeline.adapted import Adapted, refuse_tags, untagged
from diffuscope.pipeline.arguments import (
    Guidance,
    check_latents,
    check_start,
    check_tap,
    functions_of,
    prompts_of,
    size_of,
    start_latents,
)
from diffuscope.pipeline.pictures import check_image, mask_images, start_images
from diffuscope.pipeline.request import Asked
from diffuscope.pipeline.result import Result
from diffuscope.pipeline.run import Run
from diffuscope.pipeline.taps import TapArgument, chosen
from diffuscope.prompt import encode_all
from diffuscope.types import Conditioning


class Pipeline(Adapted):
    """A model, ready to make pictures. Its parts are attributes, each usable by itself.

    Attributes:
        config: what tells this model from another, with its preset.
        tokenizer: text to ids.
        text_encoder: ids to states.
        tokenizer_2: of a second text encoder (SDXL), else None.
        text_encoder_2: a second text encoder, whose states stand beside those of the first, else None.
        unet: noisy latents, time and states to a prediction.
        vae: pixels to unscaled latents and back.
        schedule: the noise levels that the U-Net was trained on.
    """

    def __init__(self, components: Components) -> None:
        """Take the parts as they are: their device and dtype are the pipeline's."""
        super().__init__(components)
        self.components = components
        self.config = components.config
        self.tokenizer = components.tokenizer
        self.text_encoder = components.text_encoder
        self.tokenizer_2 = components.tokenizer_2
        self.text_encoder_2 = components.text_encoder_2
        self.unet = components.unet
        self.vae = components.vae
        self.schedule = Schedule(components.config.schedule)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.stem.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in; latents are float32 between steps."""
        return self.unet.stem.weight.dtype

    @cached_property
    def upscaler(self) -> Upscaler:
        """The x4 upscaler, loaded when first used; float32, on the pipeline's device."""
        return loading.load_upscaler(self.device)

    @cached_property
    def similarity(self) -> ClipScore:
        """The shipped CLIP score, loaded when first used; float32, on the device."""
        return load_clip_score(self.device)

    @cached_property
    def clip_hash(self) -> str:
        """SHA-256 of all of ``similarity``'s tensors, in hex; computed once."""
        return receipt.weights_hash(self.similarity.tensors())

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each network's tensors without any LoRA, in hex; computed once."""
        return {name: receipt.weights_hash(self.adapters.unchanged(name)) for name in self.components.networks}

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_options: Mapping[str, bool | float | str | Sequence[float]] | None = None,
        seed: int | Sequence[int] | None = None,
        sampler: str | None = None,
        sampler_options: Mapping[str, float | str] | None = None,
        sigmas: str | Sequence[float] | None = None,
        final_sigma: FinalSigma | None = None,
        thresholding: Mapping[str, float] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        image: ImageSources | Tensor | None = None,
        strength: float = 0.8,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        mask_image: ImageSources | None = None,
        clip_skip: int = 0,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] | None = None,
        target_size: tuple[int, int] | None = None,
        latents: Tensor | None = None,
        conditioning: Conditioning | None = None,
        guidance: Guidance | Sequence[Guidance] = (),
        tap: TapArgument | None = None,
        upscale: int | None = None,
    ) -> Result:
        """Make pictures: ``steps(...)`` with the same arguments, run to its end.

        Returns:
            The pictures, ``num_images_per_prompt`` for each prompt in turn, with latents, seeds and receipt.
        """
        return self.steps(
            prompt,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_options=guidance_options,
            seed=seed,
            sampler=sampler,
            sampler_options=sampler_options,
            sigmas=sigmas,
            final_sigma=final_sigma,
            thresholding=thresholding,
            height=height,
            width=width,
            num_images_per_prompt=num_images_per_prompt,
            image=image,
            strength=strength,
            denoising_start=denoising_start,
            denoising_end=denoising_end,
            mask_image=mask_image,
            clip_skip=clip_skip,
            original_size=original_size,
            crops_coords_top_left=crops_coords_top_left,
            target_size=target_size,
            latents=latents,
            conditioning=conditioning,
            guidance=guidance,
            tap=tap,
            upscale=upscale,
        ).result()

    def steps(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_options: Mapping[str, bool | float | str | Sequence[float]] | None = None,
        seed: int | Sequence[int] | None = None,
        sampler: str | None = None,
        sampler_options: Mapping[str, float | str] | None = None,
        sigmas: str | Sequence[float] | None = None,
        final_sigma: FinalSigma | None = None,
        thresholding: Mapping[str, float] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        image: ImageSources | Tensor | None = None,
        strength: float = 0.8,
        denoising_start: float | None = None,
        denoising_end: float | None = None,
        mask_image: ImageSources | None = None,
        clip_skip: int = 0,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] | None = None,
        target_size: tuple[int, int] | None = None,
        latents: Tensor | None = None,
        conditioning: Conditioning | None = None,
        guidance: Guidance | Sequence[Guidance] = (),
        tap: TapArgument | None = None,
        upscale: int | None = None,
    ) -> Run:
        """A run whose loop is yours: iterate over its Steps, then ask for ``result()``.

        None means the model's own preset, which is written into the receipt. Nothing given is modified.

        Args:
            prompt: one text or several. ``<lora:name:0.8>`` in it gives a LoRA that is loaded, or lies in
                ``lora_dir``, this weight for this call, and is no part of the text.
            negative_prompt: what guidance leads away from; one, or one per prompt.
            num_inference_steps: solver steps.
            guidance_scale: weight of the prompt against the negative prompt; 1.0 is one network call a step.
            guidance_options: other ways to guide. ``{"rescale": 0.7}`` or ``{"norm": "whole"}`` keep the prediction's
                deviation or length; ``{"end": 0, "shape": "cosine"}`` lets the scale fall to 0 in the last step;
                ``{"interval": [0.5, 10]}`` guides between two noise levels; ``{"colour": [0.1, 0.9, 0.5]}`` leads to
                a colour, ``"colour_scale"`` strongly (10), above the noise level ``"colour_low"`` (0);
                ``{"similarity": "a blue car"}`` to a text, as the shipped towers see it, whatever the model, with
                ``"similarity_scale"`` (1) and ``"similarity_low"`` (0). With ``"exact": True`` the gradients of both
                go through the U-Net, each by two calls and a backward pass more a step, and both scales are three
                times as high if left out; it goes without a tap.
            seed: of image 0, image k has ``seed + k``; or one per image. None draws one and reports it.
            sampler: any spelling of a name in ``samplers()``.
            sampler_options: the sampler's own, such as ``{"eta": 0.5}`` or ``{"s_churn": 10}``.
            sigmas: spacing of the noise levels, such as "model", "karras" or "beta", or the levels themselves.
            final_sigma: where the levels end, "zero" or "sigma_min", the lowest trained one; None is the sampler's own.
            thresholding: keeps the clean estimates, after guidance, in a range: ``{"limit": 1.0}`` cuts them there,
                ``{"ratio": 0.995, "most": 1.5}`` at a quantile of each image's; see ``diffusion.thresholding``.
            height: pixels, before upscaling; a multiple of the VAE's factor.
            width: as ``height``.
            num_images_per_prompt: images k of prompt ``k // num_images_per_prompt``.
            image: where to start instead of pure noise; one, or one per prompt. It is scaled to cover the size and
                cut around the middle. Or latents [N,C,h,w] such as a Result's.
            strength: how much of the run is done on ``image``: near 0 keeps it, 1 forgets it.
            denoising_start: where to go on, as a share of the training times from pure noise, with the latents of
                another model that stopped there, given as ``image``: SDXL's refiner. No noise is added.
            denoising_end: where to stop, as such a share; the latents, and the pictures, still have noise.
            mask_image: white where ``image`` is made anew, black where it stays; one, or one per prompt, with the
                proportions of its image. Without ``strength=1`` what lies under the white shows through.
            clip_skip: how many layers earlier the text encoder's states are taken, of the negative prompt too; other
                programs' "clip skip" is this number plus 1.
            original_size: SDXL: height and width that the picture shall look to have had, as made.
            crops_coords_top_left: SDXL: how far it shall look cut, at the top and on the left; (0, 0) is centred.
            target_size: SDXL: height and width that it shall look made for.
            latents: [N,C,h,w] start noise of unit variance, in the place of drawn noise.
            conditioning: in the place of a prompt, with one row each: what ``encode_prompt`` returns, edited.
            guidance: further functions from Denoiser to Denoiser, applied in turn.
            tap: reads or replaces inner values; see ``tap_points``. Rows of a guided batch are [unconditional,
                conditional]; the text encoder's are the different texts, negative prompts first.
            upscale: how many times larger pictures come out, 1 or 4.

        Raises:
            InputError: an argument is not possible; before any network runs.
            ImageError: ``image`` or ``mask_image`` cannot be read.
        """
        check_image(self.config, image, mask_image)
        check_start(image, denoising_start, mask_image)
        written = prompts_of(self.config, prompt, conditioning)
        texts, loras = untagged(written)
        factor = self.config.vae.factor
        high, wide = size_of(height, width, image if isinstance(image, Tensor) else latents, factor)
        asked = Asked(
            prompt=texts,
            negative_prompt=negative_prompt,
            count=num_images_per_prompt,
            seed=seed,
            height=high,
            width=wide,
            guidance_scale=guidance_scale,
            guidance_options=guidance_options,
            upscale=upscale,
            steps=num_inference_steps,
            sampler=sampler,
            sampler_options=sampler_options,
            sigmas=sigmas,
            final_sigma=final_sigma,
            thresholding=thresholding,
            strength=strength,
            from_image=image is not None,
            denoising_start=denoising_start,
            denoising_end=denoising_end,
            masked=mask_image is not None,
            clip_skip=clip_skip,
            original_size=original_size,
            crops_coords_top_left=crops_coords_top_left,
            target_size=target_size,
        )
        request = requests.resolve(self.config, self.schedule, asked)
        refuse_tags(request.negative_prompt)
        check_tap(tap, request)
        if latents is not None:
            check_latents(latents, request, self.config, image)
        painted = None if isinstance(image, Tensor) else image
        extras = start.Extras(
            image=None if painted is None else start_images(painted, request),
            mask=None if painted is None or mask_image is None else mask_images(mask_image, painted, request, factor),
            clean=start_latents(image, request, self.config) if isinstance(image, Tensor) else None,
            latents=latents,
            conditioning=conditioning,
            guidance=functions_of(guidance),
            tap=chosen(tap, tuple(self.components.networks.values()), request),
            written=written,
            loras=self.adapters.wanted(loras),
        )
        return start.begin(self, request, extras)

    @torch.no_grad()
    def encode_prompt(
        self, prompt: str | Sequence[str], *, clip_skip: int = 0, tap: TapArgument | None = None
    ) -> Conditioning:
        """What the U-Net is told of one text or several: ``ids`` [B,77], ``embeddings`` [B,77,D] and ``pooled``.

        Raises:
            InputError: no text, an empty list, or fewer layers than ``clip_skip``.
        """
        texts, loras = untagged(requests.texts(prompt, "prompt"))
        with self.adapters.encoding(self.adapters.wanted(loras)):
            towers = self.components.towers
            return encode_all(texts, towers, chosen(tap, [encoder for _, encoder in towers]), skip=clip_skip)

    @torch.no_grad()
    def encode_image(
        self,
        image: ImageSources,
        *,
        sample: bool = True,
        seed: int | Sequence[int] | None = None,
        tap: TapArgument | None = None,
    ) -> Tensor:
        """Latents [N,C,h,w] of one picture or several, float32, scaled as the U-Net wants them.

        Sides that are no multiple of the VAE's factor are cut to the next lower one, around the middle.

        Args:
            image: pictures that share one size.
            sample: draw from the latents' distribution; else take its mean.
            seed: of the draw, as in a call.
            tap: reads or replaces inner values of the VAE.

        Raises:
            ImageError: a picture cannot be read.
            InputError: the sizes differ, or a side is shorter than the VAE's factor.
        """
        pictures = [open_image(each) for each in (image if isinstance(image, list | tuple) else [image])]
        factor, channels = self.config.vae.factor, self.config.vae.latent_channels
        if not pictures or min(min(picture.size) for picture in pictures) < factor:
            raise InputError(f"{len(pictures)} pictures; give at least one, each side at least {factor} pixels")
        pictures = [fit_to_size(p, p.width - p.width % factor, p.height - p.height % factor) for p in pictures]
        shape = (channels, pictures[0].height // factor, pictures[0].width // factor)
        noise = PerImageNoise(requests.seeds(seed, len(pictures))).draw(shape) if sample else None
        return codec.encode(self.vae, to_pixels(pictures), noise, chosen(tap, (self.vae,)), [])

    @torch.no_grad()
    def decode(self, latents: Tensor, *, tap: TapArgument | None = None) -> list[Image.Image]:
        """Pictures of latents [N,C,h,w] in the U-Net's scale, such as a Result's or a Step's ``x0``; not upscaled.

        Raises:
            InputError: the shape is not that of this model's latents.
            NonFiniteError: there is no picture, in float32 neither.
        """
        return codec.pictures(codec.decode(self.vae, latents, chosen(tap, (self.vae,)), []), None)

    def save(self, folder: str | PathLike[str], layout: Literal["diffusers", "own", "single"] = "diffusers") -> Path:
        """Write the model as a new folder or file and return its path; it appears whole or not at all.

        Args:
            folder: does not exist yet, or is empty; the folder that holds it exists.
            layout: "diffusers" opens there too, and here with the same preset; "own" has our names and one file a
                network. "single" makes of ``folder`` one .safetensors file with the names of the original code, which
                nearly every program opens; it keeps the config, and of the tokenizer nothing, as CLIP's own is known.

        Raises:
            InputError: no such layout, or the file's name does not end in .safetensors.
            OutputError: the folder is not empty, the file is there already, or it cannot be written.
        """
        return saving.save(self.components, Path(folder), layout)
