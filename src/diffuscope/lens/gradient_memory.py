"""The memory that loss guidance needs for activations, counted before a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from diffuscope.diffusion.loss_guidance import Loss
from diffuscope.errors import InputError
from diffuscope.lens.shapes import call_with_zeros
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class GradientMemory:
    """Bytes of activations kept for a backward pass, without the weights."""

    unet: int
    vae: int
    loss: int = 0

    @property
    def cheap(self) -> int:
        """Of loss guidance after the network call: through the decoder and the loss."""
        return self.vae + self.loss

    @property
    def exact(self) -> int:
        """Of loss guidance through the U-Net, with two checkpoints: one graph at a time."""
        return max(self.unet, self.vae, self.loss)

    @property
    def without_checkpoints(self) -> int:
        """Of all graphs at once."""
        return self.unet + self.vae + self.loss

    def __str__(self) -> str:
        sizes = {"cheap": self.cheap, "exact": self.exact, "exact without checkpoints": self.without_checkpoints}
        return ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.items())


def gradient_memory(
    pipe: Pipeline, height: int, width: int, *, images: int = 1, guided: bool = True, loss: Loss | None = None
) -> GradientMemory:
    """The memory of loss guidance, counted from shapes: no network of the model computes anything.

    Args:
        pipe: the model, in its dtype.
        height: of the images, in pixels; a multiple of the VAE's factor.
        width: as ``height``.
        images: how many at once.
        guided: whether the gradient goes through classifier-free guidance, which doubles the U-Net's rows. False for
            exact gradients through the conditional Denoiser, as with the option "exact".
        loss: of one image, if it is large, such as a similarity's: it runs once, on a grey image.

    Raises:
        InputError: the size is no multiple of the VAE's factor.
    """
    factor = pipe.config.vae.factor
    for name, pixels in (("height", height), ("width", width)):
        if pixels < factor or pixels % factor:
            raise InputError(name, pixels, f"a multiple of {factor} pixels")
    size = height // factor, width // factor
    with FakeTensorMode(), torch.device(pipe.device), torch.enable_grad():
        with saved_tensors() as unet:
            call_with_zeros(UNet(pipe.unet.config).requires_grad_(False), images * (2 if guided else 1), size)
        with saved_tensors() as vae:
            copy = VAE(pipe.config.vae).requires_grad_(False)
            copy.decode(torch.zeros(images, pipe.config.vae.latent_channels, *size, requires_grad=True) / 1)
    of_loss: dict[object, int] = {}
    if loss is not None:
        with torch.inference_mode(False), torch.enable_grad(), saved_tensors() as of_loss:
            loss(torch.full((1, 3, height, width), 0.5, device=pipe.device, requires_grad=True))
    of_unet = sum(unet.values()) * pipe.unet.conv_in.weight.element_size() // 4  # counted in float32
    of_vae = sum(vae.values()) * pipe.vae.quant_conv.weight.element_size() // 4
    return GradientMemory(of_unet, of_vae, images * sum(of_loss.values()))


@contextmanager
def saved_tensors() -> Iterator[dict[object, int]]:
    """Storage -> bytes of every tensor, but for parameters, that graphs made inside keep for their backward pass."""
    sizes: dict[object, int] = {}
    alive: list[Tensor] = []  # a storage that is freed would give its address to another

    def pack(value: Tensor) -> Tensor:
        if not isinstance(value, torch.nn.Parameter) and not isinstance(value._base, torch.nn.Parameter):
            storage = value.untyped_storage()
            alive.append(value)
            sizes[storage._cdata] = storage.nbytes()
        return value

    with saved_tensors_hooks(pack, lambda value: value):
        yield sizes
