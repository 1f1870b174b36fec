"""The latents that a run starts from: noise, a noised image, or another model's; and what inpainting needs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.inpaint import KnownArea
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.errors import InputError, Unquoted
from diffuscope.images import ImageSource, ImageSources, fit_to_size, image_hash, listed, open_image, to_pixels
from diffuscope.loading import Components
from diffuscope.perf.engine import Engine
from diffuscope.pipeline import codec
from diffuscope.pipeline.inputs import checked_latents
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.receipt import checksums
from diffuscope.types import Tap, sent

MASK_THRESHOLD = 128  # the darkest grey of a mask that counts as white


@dataclass(frozen=True, kw_only=True)
class InitImages:
    """A call's image inputs, one per image of the call; None where there are none."""

    images: tuple[Image.Image, ...] | None = None  # RGB, of the plan's size
    masks: tuple[Image.Image, ...] | None = None  # of the plan's size: 255 in the masked area, 0 elsewhere
    latents: Tensor | None = None  # [N,C,h,w] in the place of images; of a base model still noisy
    noise: Tensor | None = None  # [N,C,h,w] start noise of unit variance in the place of the seeds' noise

    @property
    def hashes(self) -> dict[str, list[str] | None]:
        """The receipt's entries of the images or latents, and of the masks."""
        image = None if self.latents is None else checksums(self.latents)
        if self.images is not None:
            image = [image_hash(each) for each in self.images]
        return {"image": image, "mask_image": None if self.masks is None else [image_hash(each) for each in self.masks]}


class FromImage(NamedTuple):
    """What a run keeps of its image."""

    channels: Tensor | None = None
    """For a U-Net that reads it: [N,1+C,h,w] the mask, and the latents of the image with the masked area grey; or
    [N,C,h,w] the unscaled mean latents of an image to edit."""
    area: KnownArea | None = None  # for any other U-Net: what is put back outside the masked area


def init_images(plan: Plan, components: Components) -> InitImages:
    """The image inputs of a call, opened and checked: their number, their shapes, and that a mask has a white area."""
    call = plan.call
    factor, channels = components.config.vae.factor, components.config.vae.latent_channels
    width, height = plan.preset.width, plan.preset.height
    shape = [channels, height // factor, width // factor]
    noise = None if call.latents is None else checked_latents(call.latents, "latents", [plan.images, *shape])
    if call.image is None:
        return InitImages(noise=noise)
    if isinstance(call.image, Tensor):
        return InitImages(latents=_latents(call.image, plan, shape), noise=noise)
    images = [open_image(source) for source in _one_per_prompt(call.image, plan, "image")]
    fitted = plan.per_image([fit_to_size(image, width, height) for image in images])
    if call.mask_image is None:
        return InitImages(images=fitted, noise=noise)
    masks = [open_image(source, "mask_image") for source in _one_per_prompt(call.mask_image, plan, "mask_image")]
    pairs = [(masks[k % len(masks)], images[k % len(images)]) for k in range(max(len(masks), len(images)))]
    return InitImages(
        images=fitted, masks=plan.per_image([_mask(mask, image.size, (width, height), factor) for mask, image in pairs])
    )


def init_latents(
    init: InitImages,
    components: Components,
    plan: Plan,
    noise: PerImageNoise,
    tap: Tap | None,
    notes: list[str],
    engine: Engine,
) -> tuple[Tensor, FromImage]:
    """[N,C,h,w] float32 latents at the run's first noise level, and what the run keeps of its image.

    Noise is drawn in this order, where it is needed: the encoder's sample, the start noise, the encoder's sample of
    the image without the masked area (with a mask for any U-Net).
    """
    vae, device = components.vae, engine.device(components.unet)
    factor, scale = vae.config.factor, plan.levels.start_scale
    shape = (vae.config.latent_channels, plan.preset.height // factor, plan.preset.width // factor)
    if components.config.edits:
        start = noise.draw(shape) if init.noise is None else init.noise
        return start.to(device, torch.float32) * scale, _to_edit(init, components, tap, notes, engine)
    if init.noise is not None:
        return sent(init.noise.float(), device) * scale, FromImage()
    if init.latents is not None:
        latents = sent(init.latents.float(), device)
        if plan.request.denoising_start is not None:
            return latents * scale, FromImage()
        return latents + sent(noise.draw(shape), device) * scale, FromImage()
    if init.images is None:
        return sent(noise.draw(shape), device) * scale, FromImage()

    def encoded(pixels: Tensor) -> Tensor:
        drawn = noise.draw(shape)
        return torch.cat([codec.encode(vae, pixels[some], drawn[some], tap, notes, engine) for some in plan.batches])

    pixels = to_pixels(init.images)
    from_noise = plan.call.fills_from_noise
    clean = None if from_noise and components.config.inpaints else encoded(pixels)
    start_noise = noise.draw(shape).to(device)
    x = start_noise * scale if clean is None or from_noise else clean + start_noise * scale
    if init.masks is None:
        return x, FromImage()
    mask = torch.from_numpy(np.stack([np.asarray(mask) for mask in init.masks])).gt(0).float()[:, None]  # [N,1,H,W]
    small = mask[:, :, ::factor, ::factor].to(device)
    if clean is not None and not components.config.inpaints:
        noise.draw(shape)  # in vain, as in diffusers: so the noise of the steps is the same as there
        return x, FromImage(area=KnownArea(clean, start_noise, small, plan.levels))
    masked = encoded(pixels * (1 - mask))
    return x, FromImage(channels=torch.cat([small, masked], dim=1))


def _to_edit(init: InitImages, components: Components, tap: Tap | None, notes: list[str], engine: Engine) -> FromImage:
    """The image that InstructPix2Pix edits, as its U-Net reads it: mean latents, unscaled (Brooks et al. 2023)."""
    latents = init.latents
    if latents is None:
        assert init.images is not None  # the plan asks for one
        latents = codec.encode(components.vae, to_pixels(init.images), None, tap, notes, engine)
    return FromImage(channels=components.vae.unscaled(latents.to(engine.device(components.unet))))


def _latents(image: Tensor, plan: Plan, shape: list[int]) -> Tensor:
    """Latents that are the image: for each image, for each prompt, or one for all."""
    rows = len(image) if image.ndim and len(image) in {1, len(plan.prompts)} else plan.images
    return checked_latents(image, "image", [rows, *shape]).repeat_interleave(plan.images // rows, dim=0)


def _one_per_prompt(sources: ImageSources, plan: Plan, argument: str) -> list[ImageSource]:
    images = listed(sources)
    if len(images) not in {1, len(plan.prompts)}:
        raise InputError(argument, Unquoted(f"{len(images)} images"), f"one, or one per prompt ({len(plan.prompts)})")
    return images


def _mask(mask: Image.Image, image: tuple[int, int], size: tuple[int, int], factor: int) -> Image.Image:
    """One mask in black and white, of the run's size."""
    if mask.width * image[1] != mask.height * image[0]:
        got = Unquoted(f"{mask.width}x{mask.height}")
        raise InputError("mask_image", got, f"a mask of the image's aspect ratio, {image[0]}x{image[1]}")
    grey = fit_to_size(mask, *size).convert("L")
    binary = grey.point([255 * (level >= MASK_THRESHOLD) for level in range(256)])
    if binary.getbbox() is None:
        raise InputError("mask_image", Unquoted("a mask that is all black"), "a masked area in white")
    if not np.asarray(binary)[::factor, ::factor].any():
        got = Unquoted("a white area thinner than one latent cell, which would be lost")
        raise InputError("mask_image", got, f"white at least {factor} pixels wide")
    return binary
