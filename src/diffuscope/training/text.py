"""Training of the text encoder by CLIP's contrastive loss (Radford et al. 2021)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.training.examples import Examples
from diffuscope.training.loop import StepContext


class Clip(nn.Module):
    """Texts and images as unit vectors in one space.

    Images come as pooled features of the feature network, and are projected by one learned matrix.

    Args:
        text_encoder: with a projection; trained.
        features: width of the image features.
    """

    def __init__(self, text_encoder: TextEncoder, features: int) -> None:
        super().__init__()
        width = text_encoder.config.projection
        if width is None:
            raise ValueError("the text encoder has no projection: set TextEncoderConfig.projection")
        self.text_encoder = text_encoder
        self.image_projection = nn.Linear(features, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_texts(self, pooled: Tensor) -> Tensor:
        """[B,P] pooled texts -> [B,P] unit vectors."""
        return F.normalize(pooled.float(), dim=-1)

    def embed_images(self, features: Tensor) -> Tensor:
        """[B,F] image features -> [B,P] unit vectors."""
        return F.normalize(self.image_projection(features).float(), dim=-1)

    def contrastive_loss(self, pooled: Tensor, features: Tensor) -> Tensor:
        """CLIP's loss: symmetric cross-entropy over the similarities of a batch (figure 3 of the paper)."""
        logits = self.embed_texts(pooled) @ self.embed_images(features).T * self.log_scale.exp().clamp(max=100)
        match = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    """Batches of the stage ``text``."""

    batch_size: int = 4096


class TextTask:
    """The task of ``loop.train`` for CLIP.

    Args:
        clip: the networks, on their device.
        examples: texts and image features.
        held_out: held-out examples; the first 1,024 are the gallery of the retrieval.
        training: batch size.
        compiled: compile the text encoder.
    """

    adamw_prefixes: tuple[str, ...] = ("image_projection",)

    def __init__(
        self, clip: Clip, examples: Examples, held_out: Examples, training: TextTraining, *, compiled: bool = False
    ) -> None:
        self.network: nn.Module = clip
        self.clip, self.examples, self.held_out, self.training = clip, examples, held_out, training
        self.encode = torch.compile(clip.text_encoder) if compiled else clip.text_encoder

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """CLIP's loss of a new batch."""
        batch = self.examples.batch(self.training.batch_size, context, context.shared)
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=batch.ids.is_cuda):
            pooled = self.encode(batch.ids).pooled
        loss = self.clip.contrastive_loss(pooled, batch.features.float())
        return loss, {"scale": self.clip.log_scale.detach().exp()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """R@1 and R@5 of text-to-image retrieval among 1,024 held-out pairs."""
        assert isinstance(network, Clip)
        return retrieval(network, self.held_out)


@torch.no_grad()
def retrieval(clip: Clip, held_out: Examples, gallery: int = 1024) -> dict[str, float]:
    """R@1 and R@5 of text-to-image retrieval among ``gallery`` held-out pairs."""
    pooled = torch.cat([clip.text_encoder(ids).pooled for ids in held_out.ids[:gallery, 0].long().split(128)])
    similarity = clip.embed_texts(pooled) @ clip.embed_images(held_out.features[:gallery].float()).T
    rank = (similarity > similarity.diagonal()[:, None]).sum(1)
    return {"r1": (rank < 1).float().mean().item(), "r5": (rank < 5).float().mean().item()}
