"""What the U-Net and the text encoder learn from, made once and kept on the device: latents, texts, features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffuscope.models.efficientnet import EfficientNet
from diffuscope.models.vae import VAE


@dataclass(frozen=True)
class Batch:
    """A drawn batch: one text for each picture."""

    latents: Tensor
    """[B,C,h,w] mean latents, scaled as the U-Net sees them."""
    ids: Tensor
    """[B,T] int64 token ids."""
    features: Tensor
    """[B,F] pooled features of the pictures by the pretrained network."""


@dataclass(frozen=True)
class Examples:
    """N pictures, each with K texts that describe it."""

    latents: Tensor
    """[N,C,h,w] bfloat16."""
    ids: Tensor
    """[N,K,T] int32 token ids."""
    features: Tensor
    """[N,F] float16."""

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` examples with replacement, each with one of its texts."""
        device = self.latents.device
        rows = torch.randint(len(self), (count,), device=device, generator=generator)
        texts = torch.randint(self.ids.shape[1], (count,), device=device, generator=generator)
        return Batch(self.latents[rows].float(), self.ids[rows, texts].long(), self.features[rows])

    def to(self, device: torch.device) -> "Examples":
        """The same on another device."""
        return Examples(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __getitem__(self, rows: slice) -> "Examples":
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))


@torch.no_grad()
def encode(
    vae: VAE,
    feature_net: EfficientNet,
    pictures: Callable[[slice], Tensor],
    ids: Tensor,
    chunk: int = 512,
) -> Examples:
    """Examples from pictures that are composed chunk by chunk.

    Args:
        vae: encodes; its mean latents are kept, times ``config.scale``.
        feature_net: its pooled features are kept.
        pictures: rows -> pictures [B,3,H,W] in [-1,1] on the device.
        ids: [N,K,T] token ids of the texts.
        chunk: pictures encoded at once.
    """
    latents, features = [], []
    for start in range(0, len(ids), chunk):
        pixels = pictures(slice(start, min(start + chunk, len(ids))))
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
            mean = vae.encode(pixels).mean
            pooled = feature_net.features(pixels / 2 + 0.5).pooled
        latents.append((mean.float() * vae.config.scale).bfloat16())
        features.append(pooled.half())
    device = latents[0].device
    return Examples(torch.cat(latents), ids.to(device, torch.int32), torch.cat(features))


def latent_moments(latents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [C] of each channel and one standard deviation [] over everything, in float64."""
    values = torch.cat([part.double().transpose(0, 1).flatten(1) for part in latents], dim=1)
    mean = values.mean(1)
    return mean, (values - mean[:, None]).square().mean().sqrt()
