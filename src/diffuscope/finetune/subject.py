"""What every kind of training needs of a Pipeline and of pictures: latents, texts with gradients, the loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.errors import InputError, NonFiniteError, Unquoted
from diffuscope.finetune.networks import shared_copy
from diffuscope.finetune.options import RunOptions
from diffuscope.models.unet import UNet
from diffuscope.pipeline import Pipeline, codec
from diffuscope.prompt.encoding import Tower, encode_all, truncation_notice
from diffuscope.training.denoising import DenoisingLoss, stratified
from diffuscope.training.loop import StepContext
from diffuscope.training.pictures import Pictures
from diffuscope.types import Conditioning

VALIDATED = 16
"""Noise levels at which the error is compared before and after."""


def check_trainable(pipe: Pipeline) -> None:
    """Refuse a model that cannot be taught by noise and a text alone.

    Raises:
        InputError: it reads an image or a mask, is distilled, or predicts epsilon at zero terminal SNR.
    """
    config = pipe.config
    if config.unet.in_channels != config.vae.latent_channels:
        got = Unquoted(f"{config.name!r}, whose U-Net also reads an image")
        raise InputError("model", got, "a model of text alone", "Train on the base model of the same family")
    if config.unet.guidance_dim is not None or config.unet.step_dim is not None:
        got = Unquoted(f"{config.name!r}, which is distilled")
        raise InputError("model", got, "the model that it was distilled from", "What it learns works in both")
    DenoisingLoss(pipe.schedule, pipe.device, 1.0)


def named(pictures: Pictures) -> dict[str, str]:
    """Caption -> what a note calls it."""
    return {text: f"the caption of {name}" for text, name in zip(pictures.captions, pictures.names, strict=True)}


def tell_truncated(pipe: Pipeline, names: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Say which words of each text the text encoder does not see; ``names`` is text -> what the note calls it."""
    for text, name in names.items():
        if note := truncation_notice(text, pipe.tokenizer, name):
            tell(note)


@torch.no_grad()
def latents_of(pipe: Pipeline, pictures: Pictures) -> Tensor:
    """[N,C,h,w] float32 mean latents of the pictures, in the U-Net's scale.

    Raises:
        NonFiniteError: the autoencoder makes numbers of a picture that are not finite.
    """
    parts = [
        codec.encode(pipe.vae, part, None, None, [], pipe.engine) for part in pictures.images.to(pipe.device).split(4)
    ]
    latents = torch.cat(parts)
    finite = latents.flatten(1).isfinite().all(1).tolist()
    if not all(finite):
        name = pictures.names[finite.index(False)]
        raise NonFiniteError(f"the latents of {name} are not finite; leave the picture out, or use dtype float32")
    return latents


def size_of(config: ModelConfig, options: RunOptions) -> int:
    """The side of the pictures in pixels.

    Raises:
        InputError: it is no multiple of the autoencoder's factor.
    """
    size = min(config.preset.height, config.preset.width) if options.size is None else options.size
    if size % config.vae.factor:
        raise InputError("size", size, f"a multiple of {config.vae.factor} pixels")
    return size


def copied_towers(pipe: Pipeline, lengths: Mapping[str, int]) -> list[Tower]:
    """The text encoders and tokenizers of their own, with these added words; the tensors are the Pipeline's."""
    towers = pipe.components.towers
    return [(tokenizer.with_added_tokens(lengths), shared_copy(encoder)) for tokenizer, encoder in towers]


@dataclass(frozen=True)
class Denoising:
    """The loss of latents and their text states.

    Attributes:
        pipe: the model.
        loss: over its noise levels.
        size: side of the pictures in pixels, which SDXL reads.
    """

    pipe: Pipeline
    loss: DenoisingLoss
    size: int

    def draws(self, context: StepContext, count: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Noise levels [count] as places in their list, and noise [count,*shape], of this process."""
        whole, generator = context.whole(count), context.shared
        places = stratified(whole, generator)
        noise = torch.randn((whole, *shape), device=generator.device, generator=generator)
        return context.own(places), context.own(noise)

    def errors(self, unet: UNet, x0: Tensor, texts: Conditioning, places: Tensor, noise: Tensor) -> Tensor:
        """[B] weighted squared errors of the prediction for latents [B,C,h,w]."""
        x, time, sigma = self.loss.noised(x0, places, noise)
        dtype = self.pipe.dtype
        with autocast(x.device):
            output = unet(x.to(dtype), time, texts.embeddings.to(dtype), extra=self._extra(texts))
        return self.loss.error(output, x0, noise, sigma)

    def _extra(self, texts: Conditioning) -> dict[str, Tensor] | None:
        if self.pipe.config.unet.extra_dim is None:
            return None
        assert texts.pooled is not None
        known = (self.size, self.size, 0.0, 0.0, self.size, self.size)
        sizes = known if self.pipe.config.sizes == len(known) else (*known[:4], 6.0)  # a refiner's aesthetic score
        rows = torch.tensor(sizes, device=texts.pooled.device).expand(len(texts.pooled), -1)
        return {"pooled": texts.pooled, "sizes": rows}

    def fixed(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents with noise levels and noise that are always the same: ``VALIDATED`` of them, in turn."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.arange(VALIDATED) % len(latents)
        places = stratified(VALIDATED, generator)
        noise = torch.randn((VALIDATED, *latents.shape[1:]), generator=generator)
        return latents[rows], places.to(latents.device), noise.to(latents.device)


def in_parts(options: RunOptions) -> list[slice]:
    """The rows of ``Denoising.fixed`` that are computed at once: no more memory than a step needs."""
    rows = min(4, options.batch_size)
    return [slice(i, i + rows) for i in range(0, VALIDATED, rows)]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where a GPU has it; float32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def encode(texts: Sequence[str], towers: Sequence[Tower], device: torch.device) -> Conditioning:
    """The texts' states, differentiable."""
    with autocast(device):
        return encode_all(texts, towers)


def rows_of(texts: Conditioning, rows: Sequence[int] | Tensor) -> Conditioning:
    """Some rows."""
    index = torch.as_tensor(rows, device=texts.embeddings.device)
    return Conditioning(texts.embeddings[index], pooled=None if texts.pooled is None else texts.pooled[index])
