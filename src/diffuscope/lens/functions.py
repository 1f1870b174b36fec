"""A Pipeline's parts as the functions that experiments are written with: Denoisers of a prompt, and a decoder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from diffuscope.diffusion import prediction
from diffuscope.diffusion.loss_guidance import Loss
from diffuscope.errors import InputError
from diffuscope.lens.run_tap import call_twin
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline, codec
from diffuscope.types import Conditioning, Denoiser, Levels, Tap


def denoiser(
    pipe: Pipeline, told: str | Sequence[str] | Conditioning, levels: Levels, tap: Tap | None = None
) -> Denoiser:
    """The U-Net with one text for all images, or one for each, without guidance: one network call.

    Join two by ``guided(denoiser(pipe, "a fox", levels), denoiser(pipe, "", levels), 7.5)``.

    Args:
        pipe: the model.
        told: prompts, or what ``encode_prompt`` returns, edited.
        levels: of the run, for the network's clock: ``pipe.schedule.levels(steps)``.
        tap: looks at inner values, or replaces them.

    Raises:
        InputError: the model's U-Net reads more than text (SDXL, distilled guidance, a mask).
    """
    check_reads(pipe)
    conditioning = told if isinstance(told, Conditioning) else pipe.encode_prompt(told)
    context = conditioning.embeddings.to(pipe.device, pipe.dtype)

    def predict(x: Tensor, time: Tensor) -> Tensor:
        rows = context.expand(len(x), -1, -1) if len(context) == 1 else context
        return pipe.unet(x.to(pipe.dtype), time, rows, tap=tap)

    return prediction.denoiser(predict, levels, pipe.config.schedule.prediction)


def check_reads(pipe: Pipeline) -> None:
    """Refuse a model whose U-Net reads more than text.

    Raises:
        InputError: it is so.
    """
    besides = [*sorted(pipe.unet.reads), *(["a mask"] if pipe.config.inpaints else [])]
    if besides:
        raise InputError(
            f"this U-Net reads {', '.join(besides)} beside the text; run it by pipe(...) or pipe.steps(...)"
        )


def decoder(pipe: Pipeline) -> Callable[[Tensor], Tensor]:
    """The VAE's decoder: latents [N,C,h,w] in the U-Net's scale -> images [N,3,H,W] in [0,1], not clamped.

    Differentiable, and so without the pipeline's tiling and repairs: for losses, and for small batches.
    """
    return partial(codec.shares, pipe.vae)


@dataclass(frozen=True, slots=True)
class GradientMemory:
    """Bytes of activations that a backward pass keeps; the networks' weights are beside them."""

    unet: int
    vae: int
    loss: int = 0

    @property
    def cheap(self) -> int:
        """Of loss guidance after the network call: the graphs of the decoder and the loss."""
        return self.vae + self.loss

    @property
    def exact(self) -> int:
        """Of loss guidance through the network, as it is done: two checkpoints, one graph at a time."""
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
    """What loss guidance will keep in memory, counted on shapes alone: no network of the model computes anything.

    Args:
        pipe: the model, in its dtype.
        height: of the pictures, in pixels.
        width: as ``height``.
        images: how many at once.
        guided: with classifier-free guidance the U-Net runs twice as many rows. Exact gradients through the conditional
            Denoiser, as they should be, and as the option "exact" has it, do not.
        loss: of one picture, where it is large, such as that of similarity: it is tried once, on a grey picture.

    Raises:
        InputError: the size is no multiple of the VAE's factor.
    """
    factor = pipe.config.vae.factor
    if min(height, width) < factor or height % factor or width % factor:
        raise InputError(f"{height}x{width} pixels; give multiples of {factor}")
    size = height // factor, width // factor
    with FakeTensorMode(), torch.device(pipe.device), torch.enable_grad():
        with counted() as unet:
            call_twin(pipe.unet, images * (2 if guided else 1), size)
        with counted() as vae:
            twin = VAE(pipe.config.vae).requires_grad_(False)
            twin.decode(torch.zeros(images, pipe.config.vae.latent_channels, *size, requires_grad=True) / 1)
    judged: dict[object, int] = {}
    if loss is not None:
        with torch.inference_mode(False), torch.enable_grad(), counted() as judged:
            loss(torch.full((1, 3, height, width), 0.5, device=pipe.device, requires_grad=True))
    shares = [each.element_size() / 4 for each in (pipe.unet.stem.weight, pipe.vae.quant.weight)]
    kept_by_unet, kept_by_vae = (
        int(sum(kept.values()) * share) for kept, share in zip((unet, vae), shares, strict=True)
    )
    return GradientMemory(kept_by_unet, kept_by_vae, images * sum(judged.values()))


@contextmanager
def counted() -> Iterator[dict[object, int]]:
    """Storage -> bytes of every tensor, parameters left out, that graphs made inside keep for their backward pass."""
    sizes: dict[object, int] = {}
    alive: list[Tensor] = []  # a storage that is freed would give its address to another

    def pack(value: Tensor) -> Tensor:
        if not isinstance(value, torch.nn.Parameter) and not (value._base is not None and _is_parameter(value._base)):
            storage = value.untyped_storage()
            alive.append(value)
            sizes[storage._cdata] = storage.nbytes()
        return value

    with saved_tensors_hooks(pack, lambda value: value):
        yield sizes


def _is_parameter(value: Tensor) -> bool:
    return isinstance(value, torch.nn.Parameter)
