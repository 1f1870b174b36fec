"""How well a picture fits a text, by the two towers that the shipped model's text encoder was trained in.

Text and picture become unit vectors in one space; near is alike (Radford et al. 2021). The picture's tower is
EfficientNet-Lite0's pooled features and one learned matrix. It is a judge of any model's pictures, and
differentiable: the loss leads a run by ``loss_guidance``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.diffusion.loss_guidance import Loss
from diffuscope.errors import InputError
from diffuscope.loading import load_network, read_config, shipped_models
from diffuscope.models.efficientnet import EfficientNet
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.teacher import load_efficientnet
from diffuscope.weights import packing

SMALLEST = 0.7
"""Side of the smallest cut, as a share of the picture's."""


class Similarity:
    """Cosines of pictures with texts. About 0.5 is a good match, and 0 to 0.2 is none.

    Args:
        text_encoder: with a projection.
        teacher: whose pooled features [B,F] see the picture.
        matrix: [P,F] from these features into the space of the projected texts.
    """

    def __init__(self, text_encoder: TextEncoder, teacher: EfficientNet, matrix: Tensor) -> None:
        self.text_encoder, self.teacher, self.matrix = text_encoder, teacher, matrix
        self.tokenizer = Tokenizer(pad=text_encoder.config.pad)

    @torch.no_grad()
    def texts(self, texts: str | Sequence[str]) -> Tensor:
        """[K,P] unit vectors of one text or several."""
        ids = self.tokenizer.encode(texts if isinstance(texts, str) else list(texts))
        pooled = self.text_encoder(ids.to(self.matrix.device)).pooled
        return F.normalize(pooled.float(), dim=1)

    def pictures(self, pixels: Tensor) -> Tensor:
        """[B,P] unit vectors of pictures [B,3,H,W] in [0,1], differentiable."""
        features = self.teacher.features(pixels.to(self.matrix)).pooled
        return F.normalize(features @ self.matrix.T, dim=1)

    def __call__(self, pixels: Tensor, texts: str | Sequence[str]) -> Tensor:
        """[B,K] cosine of each picture [B,3,H,W] in [0,1] with each text."""
        return self.pictures(pixels) @ self.texts(texts).T

    def loss(self, text: str, *, weight: float = 8.0, cuts: int = 4, seed: int = 0) -> Loss:
        """``weight`` times the squared great-circle distance of a picture's cuts from a text, their mean.

        Hugging Face's diffusion class leads by CLIP so, with these constants. The cuts are squares of 0.7 to 1 times
        the shorter side, drawn once: what is near to the text in all of them is in the picture, not in its pixels.

        Args:
            text: where to.
            weight: of the loss.
            cuts: how many.
            seed: of their sizes and places.

        Raises:
            InputError: no cut.
        """
        if cuts < 1:
            raise InputError(f"{cuts} cuts; give at least 1")
        shares = torch.rand(cuts, 3, generator=torch.Generator().manual_seed(seed)).tolist()
        target = self.texts(text)

        def loss(picture: Tensor) -> Tensor:
            height, width = picture.shape[-2:]
            found = []
            for size, down, right in shares:
                side = round(min(height, width) * (SMALLEST + (1 - SMALLEST) * size))
                top, left = round(down * (height - side)), round(right * (width - side))
                found.append(self.pictures(picture[:, :, top : top + side, left : left + side]))
            return weight * great_circle(torch.cat(found), target).square().mean()

        return loss


def great_circle(first: Tensor, second: Tensor) -> Tensor:
    """[B] angle in radians between the rows of unit vectors [B,P] and [B,P] or [1,P]; 0 to pi."""
    return 2 * ((first - second).norm(dim=1) / 2).clamp(max=1).asin()


def load_similarity(device: str | torch.device = "cpu") -> Similarity:
    """The shipped model's towers, float32, ready to judge.

    Raises:
        WeightsError: a shipped file is damaged.
    """
    folder = shipped_models()["emoji"]
    encoder = load_network(folder / "text_encoder.safetensors", read_config(folder).text_encoder, device, torch.float32)
    assert isinstance(encoder, TextEncoder)
    matrix = packing.read(folder / "towers.safetensors")["picture.weight"].float()
    return Similarity(encoder, load_efficientnet().to(device), matrix.to(device))
