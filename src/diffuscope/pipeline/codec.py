"""Pixels to latents and back, scaled as the U-Net reads them, in bounded memory, and never a silent black image."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError, NonFiniteError
from diffuscope.images import to_images
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.perf import memory
from diffuscope.perf.engine import Engine
from diffuscope.types import Tap

T = TypeVar("T")

PIXELS_AT_ONCE = 1 << 20
"""Output pixels that are decoded at once, four images of 512x512. Peak memory grows with it."""


Check = Callable[[], None]
"""Called often; what it raises ends the work, such as that of a cancelled run."""


@dataclass(frozen=True, slots=True)
class _Watched:
    """A tap, or none, that calls a check at every activation."""

    tap: Tap | None
    check: Check

    def wants(self, name: str) -> bool:
        self.check()
        return self.tap is not None and self.tap.wants(name)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value if self.tap is None else self.tap(name, value)


def encode(vae: VAE, pixels: Tensor, noise: Tensor | None, tap: Tap | None, notes: list[str], engine: Engine) -> Tensor:
    """[N,C,h,w] float32 latents of pixels [N,3,H,W] in [-1,1]: a sample with ``noise``, or the mean without."""
    own = vae

    def run(vae: VAE) -> Tensor:
        weight = vae.quant_conv.weight
        fast = vae is own and engine.runs(vae, tap)
        latents = engine.encode(vae, pixels.to(weight)) if fast else vae.encode(pixels.to(weight), tap)
        return latents.mean if noise is None else latents.sample(noise.to(weight))

    with memory.phase("encoding the image", engine.device(vae).type), engine.using(vae):
        return vae.scaled(_finite(run, vae, "encoder", notes).float())


def decode_differentiable(vae: VAE, latents: Tensor) -> Tensor:
    """[N,3,H,W] images in about [0,1] of latents: for losses, without the tiling and repairs of ``decode``."""
    return vae.decode(vae.unscaled(latents.to(vae.quant_conv.weight))).float() / 2 + 0.5


def decode(
    vae: VAE,
    latents: Tensor,
    tap: Tap | None,
    notes: list[str],
    engine: Engine,
    check: Check = lambda: None,
    valid: Check = lambda: None,
) -> Tensor:
    """[N,3,H,W] float32 pixels in about [-1,1] of latents [N,C,h,w].

    ``valid`` raises what is wrong with the latents; it is called when the decoder is launched, before its result is
    looked at. The device need not wait for it.
    Where memory does not suffice, the images are decoded one at a time, and then on the CPU.
    """
    channels, factor = vae.config.latent_channels, vae.config.factor
    if not isinstance(latents, Tensor) or latents.ndim != 4 or latents.shape[1] != channels:
        raise InputError("latents", latents, f"latents of shape [N,{channels},h,w]")
    device, own = engine.device(vae), vae

    def run(piece: Tensor, vae: VAE = vae) -> Tensor:
        def once(network: VAE) -> Tensor:
            scaled = network.unscaled(piece.to(network.quant_conv.weight))
            if network is own and engine.runs(network, tap):
                check()
                return engine.decode(network, scaled)
            return network.decode(scaled, _Watched(tap, check))

        return _finite(once, vae, "decoder", notes, valid).float()

    def on_cpu(piece: Tensor) -> Tensor:
        notes.append(f"an image was decoded on the CPU in float32, since the memory of {device.type} did not suffice")
        return run(piece, copy.deepcopy(vae).to("cpu", torch.float32)).to(device)

    with memory.phase("decoding", device.type), engine.using(vae):
        otherwise = None if device.type == "cpu" else on_cpu
        parts = [memory.smaller(run, piece, notes, otherwise=otherwise) for piece in _pieces(latents, factor)]
        return torch.cat([pixels for part in parts for pixels in part])


def images(
    pixels: Tensor, upscaler: Upscaler | None, notes: list[str], check: Check = lambda: None
) -> list[Image.Image]:
    """Pixels [N,3,H,W] in [-1,1] as images, upscaled if there is an upscaler.

    Where memory does not suffice, they are upscaled one at a time, and then in strips.
    """
    return _finished(pixels, upscaler, notes, check, to_images, _stacked)


def shares(pixels: Tensor, upscaler: Upscaler | None, notes: list[str], check: Check = lambda: None) -> Tensor:
    """The same as float32 [N,3,H,W] on the CPU, from 0 to 1."""

    def convert(large: Tensor) -> list[Tensor]:
        return [*(large / 2 + 0.5).clamp(0, 1).float().cpu()]

    return torch.stack(_finished(pixels, upscaler, notes, check, convert, lambda strips: torch.cat(strips, dim=1)))


def _finished(
    pixels: Tensor,
    upscaler: Upscaler | None,
    notes: list[str],
    check: Check,
    convert: Callable[[Tensor], list[T]],
    stack: Callable[[list[T]], T],
) -> list[T]:
    """Pixels, upscaled and converted image by image; ``stack`` joins the strips of one."""
    if upscaler is None:
        return convert(pixels)
    watched = _Watched(None, check)

    def checked(large: Tensor) -> list[T]:
        if not large.isfinite().all():
            raise NonFiniteError("the upscaled pixels are not finite; use upscale=1")
        return convert(large * 2 - 1)

    def run(piece: Tensor) -> list[T]:
        return checked(upscaler(piece.clamp(-1, 1) / 2 + 0.5, watched))  # the upscaler's pixels are in [0,1]

    def in_strips(piece: Tensor) -> list[T]:
        strips = upscaler.strips(piece.clamp(-1, 1) / 2 + 0.5, PIXELS_AT_ONCE >> 6, watched)
        return [stack([checked(strip)[0] for strip in strips])]

    with memory.phase("upscaling", pixels.device.type):
        parts = [memory.smaller(run, piece, notes, otherwise=in_strips) for piece in _pieces(pixels, 4)]
        return [image for part in parts for piece in part for image in piece]


def _stacked(strips: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole


def _pieces(x: Tensor, factor: int) -> Sequence[Tensor]:
    rows = max(1, PIXELS_AT_ONCE // (x.shape[2] * x.shape[3] * factor**2))
    return x.split(rows)


def _finite(run: Callable[[VAE], Tensor], vae: VAE, half: str, notes: list[str], valid: Check = lambda: None) -> Tensor:
    """``run`` with the VAE or, if its values are not finite, with a float32 copy of it."""
    value = run(vae)
    valid()
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
