"""Training examples of U-Net and text encoder, encoded once: latents, token ids, image features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffuscope.models.vae import VAE
from diffuscope.training.loop import StepContext
from diffuscope.vision.efficientnet import EfficientNet


@dataclass(frozen=True)
class Batch:
    """A batch with one text for each image."""

    latents: Tensor
    """[B,C,h,w] mean latents, scaled as the U-Net sees them."""
    ids: Tensor
    """[B,T] int64 token ids."""
    features: Tensor
    """[B,F] pooled image features."""


@dataclass(frozen=True)
class Examples:
    """N images with K captions each."""

    latents: Tensor
    """[N,C,h,w] bfloat16."""
    ids: Tensor
    """[N,K,T] int32 token ids."""
    features: Tensor
    """[N,F] float16."""

    def __len__(self) -> int:
        return len(self.latents)

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` random examples with replacement, each with one of its captions."""
        device = self.latents.device
        rows = torch.randint(len(self), (count,), device=device, generator=generator)
        texts = torch.randint(self.ids.shape[1], (count,), device=device, generator=generator)
        return Batch(self.latents[rows].float(), self.ids[rows, texts].long(), self.features[rows])

    def batch(self, count: int, context: StepContext, generator: torch.Generator) -> Batch:
        """The part of this process in the next batch of the one order, each with one of its captions.

        Args:
            count: examples for each process.
            context: of the step.
            generator: its ``shared`` one, from which the captions are drawn.
        """
        device = self.latents.device
        rows = context.rows_on(device, count, len(self))
        texts = torch.randint(self.ids.shape[1], (context.whole(count),), device=device, generator=generator)
        return Batch(self.latents[rows].float(), self.ids[rows, context.own(texts)].long(), self.features[rows])

    def to(self, device: torch.device) -> "Examples":
        """The same on another device."""
        return Examples(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __getitem__(self, rows: slice) -> "Examples":
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))


@torch.no_grad()
def encode_examples(
    vae: VAE,
    feature_net: EfficientNet,
    images: Callable[[slice], Tensor],
    ids: Tensor,
    chunk: int = 512,
) -> Examples:
    """Encode images that are composed chunk by chunk.

    Args:
        vae: for the mean latents, times ``config.scale``.
        feature_net: for the pooled features.
        images: rows -> images [B,3,H,W] in [-1,1] on the device.
        ids: [N,K,T] token ids of the captions.
        chunk: images encoded at once.
    """
    latents, features = [], []
    for start in range(0, len(ids), chunk):
        pixels = images(slice(start, min(start + chunk, len(ids))))
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            mean = vae.encode(pixels).mean
            pooled = feature_net.features(pixels / 2 + 0.5).pooled
        latents.append((vae.scaled(mean.float())).bfloat16())
        features.append(pooled.half())
    device = latents[0].device
    return Examples(torch.cat(latents), ids.to(device, torch.int32), torch.cat(features))


def latent_moments(latents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [C] of each channel and one standard deviation [] over everything, in float64."""
    values = torch.cat([part.double().transpose(0, 1).flatten(1) for part in latents], dim=1)
    mean = values.mean(1)
    return mean, (values - mean[:, None]).square().mean().sqrt()
