"""Pictures to latents and back, with the VAE's scale, in pieces of bounded memory, and never a hidden black picture."""

import copy
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError, NonFiniteError
from diffuscope.images import to_images
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.types import Tap

PIXELS_AT_ONCE = 1 << 20
"""How many output pixels are decoded at once: four pictures of 512x512. Peak memory grows with it."""


def encode(vae: VAE, pixels: Tensor, noise: Tensor | None, tap: Tap | None, notes: list[str]) -> Tensor:
    """Latents [N,C,h,w] of pixels, float32 on the VAE's device, scaled as the U-Net wants them.

    Args:
        vae: the autoencoder.
        pixels: [N,3,H,W] in [-1,1]; H and W are multiples of the VAE's factor.
        noise: [N,C,h,w] of unit variance, to draw from the latents' distribution; None takes its mean.
        tap: looks at inner values, or replaces them.
        notes: gets a sentence if float32 was needed.

    Raises:
        NonFiniteError: the latents are not finite in float32 either.
    """

    def run(vae: VAE) -> Tensor:
        weight = vae.quant_conv.weight
        latents = vae.encode(pixels.to(weight), tap)
        return latents.mean if noise is None else latents.sample(noise.to(weight))

    return _finite(run, vae, "encoder", notes).float() * vae.config.scale


def decode_differentiable(vae: VAE, latents: Tensor) -> Tensor:
    """[N,3,H,W] float32 pictures in [0,1] up to the network's error, of the U-Net's latents [N,C,h,w].

    Differentiable, and so without the pieces and repairs of ``decode``: for losses.
    """
    return vae.decode(latents.to(vae.quant_conv.weight) / vae.config.scale).float() / 2 + 0.5


def decode(vae: VAE, latents: Tensor, tap: Tap | None, notes: list[str]) -> Tensor:
    """Pixels [N,3,H,W], float32 on the VAE's device, in [-1,1] up to the network's error, of the U-Net's latents.

    Raises:
        InputError: the shape is not that of this model's latents.
        NonFiniteError: the pixels are not finite in float32 either.
    """
    channels, factor = vae.config.latent_channels, vae.config.factor
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise InputError("latents", latents, f"latents of shape [N,{channels},h,w]")

    def run(piece: Tensor) -> Tensor:
        def once(vae: VAE) -> Tensor:
            return vae.decode(piece.to(vae.quant_conv.weight) / vae.config.scale, tap)

        return _finite(once, vae, "decoder", notes).float()

    return torch.cat([run(piece) for piece in _pieces(latents, factor)])


def images(pixels: Tensor, upscaler: Upscaler | None) -> list[Image.Image]:
    """Pixels [N,3,H,W] in [-1,1] as pictures, made larger first where an upscaler is given.

    Raises:
        NonFiniteError: the upscaler's answer is not finite.
    """
    if upscaler is None:
        return to_images(pixels)
    made: list[Image.Image] = []
    for piece in _pieces(pixels, 4):
        large = upscaler(piece.clamp(-1, 1) / 2 + 0.5)  # the upscaler's pixels are in [0,1]
        if not large.isfinite().all():
            raise NonFiniteError("the upscaled pixels are not finite; use upscale=1")
        made += to_images(large * 2 - 1)
    return made


def _pieces(x: Tensor, factor: int) -> Sequence[Tensor]:
    rows = max(1, PIXELS_AT_ONCE // (x.shape[2] * x.shape[3] * factor**2))
    return x.split(rows)


def _finite(run: Callable[[VAE], Tensor], vae: VAE, half: str, notes: list[str]) -> Tensor:
    """What ``run`` makes with the VAE or, if that is not finite, with a float32 copy of it."""
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
        f"the VAE's {half} gives values that are not finite, in float32 too; its weights or the latents are damaged: "
        "load the model again, and check what a tap or an edited step put in"
    )
