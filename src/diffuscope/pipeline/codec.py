"""Pixels to latents and back, scaled as the U-Net reads them, in bounded memory, and never a silent black image."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError, NonFiniteError
from diffuscope.images import to_images
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.types import Tap

PIXELS_AT_ONCE = 1 << 20
"""Output pixels that are decoded at once, four images of 512x512. Peak memory grows with it."""


def encode(vae: VAE, pixels: Tensor, noise: Tensor | None, tap: Tap | None, notes: list[str]) -> Tensor:
    """[N,C,h,w] float32 latents of pixels [N,3,H,W] in [-1,1]: a sample with ``noise``, or the mean without."""

    def run(vae: VAE) -> Tensor:
        weight = vae.quant_conv.weight
        latents = vae.encode(pixels.to(weight), tap)
        return latents.mean if noise is None else latents.sample(noise.to(weight))

    return _finite(run, vae, "encoder", notes).float() * vae.config.scale


def decode_differentiable(vae: VAE, latents: Tensor) -> Tensor:
    """[N,3,H,W] images in about [0,1] of latents: for losses, without the tiling and repairs of ``decode``."""
    return vae.decode(latents.to(vae.quant_conv.weight) / vae.config.scale).float() / 2 + 0.5


def decode(vae: VAE, latents: Tensor, tap: Tap | None, notes: list[str]) -> Tensor:
    """[N,3,H,W] float32 pixels in about [-1,1] of latents [N,C,h,w]."""
    channels, factor = vae.config.latent_channels, vae.config.factor
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise InputError("latents", latents, f"latents of shape [N,{channels},h,w]")

    def run(piece: Tensor) -> Tensor:
        def once(vae: VAE) -> Tensor:
            return vae.decode(piece.to(vae.quant_conv.weight) / vae.config.scale, tap)

        return _finite(once, vae, "decoder", notes).float()

    return torch.cat([run(piece) for piece in _pieces(latents, factor)])


def images(pixels: Tensor, upscaler: Upscaler | None) -> list[Image.Image]:
    """Pixels [N,3,H,W] in [-1,1] as images, upscaled if there is an upscaler."""
    return [image for piece in _finished(pixels, upscaler) for image in to_images(piece)]


def shares(pixels: Tensor, upscaler: Upscaler | None) -> Tensor:
    """The same as float32 [N,3,H,W] on the CPU, from 0 to 1."""
    return torch.cat([(piece / 2 + 0.5).clamp(0, 1).float().cpu() for piece in _finished(pixels, upscaler)])


def _finished(pixels: Tensor, upscaler: Upscaler | None) -> Iterator[Tensor]:
    if upscaler is None:
        yield pixels
        return
    for piece in _pieces(pixels, 4):
        large = upscaler(piece.clamp(-1, 1) / 2 + 0.5)  # the upscaler's pixels are in [0,1]
        if not large.isfinite().all():
            raise NonFiniteError("the upscaled pixels are not finite; use upscale=1")
        yield large * 2 - 1


def _pieces(x: Tensor, factor: int) -> Sequence[Tensor]:
    rows = max(1, PIXELS_AT_ONCE // (x.shape[2] * x.shape[3] * factor**2))
    return x.split(rows)


def _finite(run: Callable[[VAE], Tensor], vae: VAE, half: str, notes: list[str]) -> Tensor:
    """``run`` with the VAE or, if its values are not finite, with a float32 copy of it."""
    value = run(vae)
    if value.isfinite().all():
        return value
    dtype = vae.quant_conv.weight.dtype
    if dtype != torch.float32:
        note = f"the VAE's {half} was not finite in {str(dtype).removeprefix('torch.')} and ran again in float32"
        if note not in notes:
            notes.append(note)
        value = run(copy.deepcopy(vae).float())
        if value.isfinite().all():
            return value
    raise NonFiniteError(
        f"the VAE's {half} returned values that are not finite, in float32 too: weights or latents are damaged. "
        "Load the model again, and check taps and edited steps"
    )
