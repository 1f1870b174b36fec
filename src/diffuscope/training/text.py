"""Training the text encoder: a text and its picture must find each other among thousands (Radford et al. 2021)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.training.examples import Examples
from diffuscope.training.loop import Draw


class Towers(nn.Module):
    """Text and pictures as unit vectors in one space.

    The picture's tower is a fixed pretrained network, whose pooled features come in, and one learned matrix.

    Args:
        text_encoder: with a projection; trained.
        features: width of the picture's features.
    """

    def __init__(self, text_encoder: TextEncoder, features: int) -> None:
        super().__init__()
        width = text_encoder.config.projection
        if width is None:
            raise ValueError("the text encoder has no projection: set TextEncoderConfig.projection")
        self.text_encoder = text_encoder
        self.picture = nn.Linear(features, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def text(self, pooled: Tensor) -> Tensor:
        """[B,P] pooled texts -> [B,P] unit vectors."""
        return F.normalize(pooled.float(), dim=-1)

    def pictures(self, features: Tensor) -> Tensor:
        """[B,F] features of the pretrained network -> [B,P] unit vectors."""
        return F.normalize(self.picture(features).float(), dim=-1)

    def contrast(self, pooled: Tensor, features: Tensor) -> Tensor:
        """Symmetric cross-entropy over the similarities of a batch: CLIP's loss, figure 3 of the paper."""
        logits = self.text(pooled) @ self.pictures(features).T * self.log_scale.exp().clamp(max=100)
        match = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2


@dataclass(frozen=True, kw_only=True)
class TextTraining:
    """Batches of the contrastive stage."""

    batch: int = 4096


class TextTask:
    """The task of ``loop.train`` for the two towers.

    Args:
        towers: what is trained, on its device.
        examples: texts and features of pictures.
        held_out: examples never trained on; the first 1,024 are the gallery of the score.
        training: batch size.
        compiled: whether the text encoder is compiled.
    """

    edges: tuple[str, ...] = ("picture",)

    def __init__(
        self, towers: Towers, examples: Examples, held_out: Examples, training: TextTraining, *, compiled: bool = False
    ) -> None:
        self.network: nn.Module = towers
        self.towers, self.examples, self.held_out, self.training = towers, examples, held_out, training
        self.encode = torch.compile(towers.text_encoder) if compiled else towers.text_encoder

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """CLIP's loss of a fresh batch."""
        batch = self.examples.draw(self.training.batch, draw.generator)
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=batch.ids.is_cuda):
            pooled = self.encode(batch.ids).pooled
        loss = self.towers.contrast(pooled, batch.features.float())
        return loss, {"scale": self.towers.log_scale.detach().exp()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """How often a text's own picture is the nearest of 1,024, and among the nearest five."""
        assert isinstance(network, Towers)
        return retrieval(network, self.held_out)


@torch.no_grad()
def retrieval(towers: Towers, held_out: Examples, gallery: int = 1024) -> dict[str, float]:
    """Text to picture among ``gallery`` held-out pairs: how often the own picture comes first, or within five."""
    pooled = torch.cat([towers.text_encoder(ids).pooled for ids in held_out.ids[:gallery, 0].long().split(128)])
    similarity = towers.text(pooled) @ towers.pictures(held_out.features[:gallery].float()).T
    rank = (similarity > similarity.diagonal()[:, None]).sum(1)
    return {"r1": (rank < 1).float().mean().item(), "r5": (rank < 5).float().mean().item()}
