"""Retrieval: is an image nearest to the real images of its own concept, or to its own caption?"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.errors import InputError, Unquoted
from diffuscope.vision.efficientnet import EfficientNet


class Gallery:
    """Concepts, each as the mean feature of its real images.

    Args:
        features: [M,F] of real images.
        concepts: of each image.
        styles: of each image.
    """

    def __init__(self, features: Tensor, concepts: Sequence[str], styles: Sequence[str]) -> None:
        if not len(features) == len(concepts) == len(styles):
            got = Unquoted(f"{len(features)} features, {len(concepts)} concepts and {len(styles)} styles")
            raise InputError("features", got, "one of each per image")
        self.names = tuple(sorted(set(concepts)))
        self.index = {name: i for i, name in enumerate(self.names)}
        self._features, self._styles = features.float(), tuple(styles)
        self._rows = torch.tensor([self.index[concept] for concept in concepts], device=features.device)
        self._means: dict[str | None, Tensor] = {}

    def means(self, excluded: str | None) -> Tensor:
        """[K,F] unit vectors: the mean of each concept over all styles except one; zero without another style."""
        if excluded not in self._means:
            kept = torch.tensor([style != excluded for style in self._styles], device=self._features.device)
            sums = self._features.new_zeros(len(self.names), self._features.shape[1])
            sums.index_add_(0, self._rows[kept], self._features[kept])
            self._means[excluded] = F.normalize(sums, dim=1)  # the mean's direction is the sum's
        return self._means[excluded]

    def similarity(self, features: Tensor, excluded: Sequence[str | None]) -> Tensor:
        """[N,K] cosine of each image feature with each concept, without the style ``excluded`` of that image."""
        out = features.new_zeros(len(features), len(self.names), dtype=torch.float32)
        rows: dict[str | None, list[int]] = defaultdict(list)
        for row, style in enumerate(excluded):
            rows[style].append(row)
        for style, own in rows.items():
            index = torch.tensor(own, device=features.device)
            out[index] = F.normalize(features[index].float(), dim=1) @ self.means(style).T
        return out


def in_top(k: int, similarity: Tensor, column: Tensor) -> Tensor:
    """[N] whether ``column`` [N] of ``similarity`` [N,K] is among the ``k`` largest of its row; a tie or NaN is not."""
    own = similarity.gather(1, column[:, None])
    # A value is never larger than itself, so the own column counts as one.
    return (~(own > similarity)).sum(1) <= k


@torch.no_grad()
def features(feature_net: EfficientNet, images: Tensor, batch: int = 250) -> Tensor:
    """[N,F] pooled features of uint8 images [N,3,H,W], float32 on the network's device."""
    device = feature_net.stem.weight.device
    return torch.cat([feature_net.features(part.to(device).float() / 255).pooled for part in images.split(batch)])


@torch.no_grad()
def clip_similarity(
    features: Tensor, projection: Tensor, encode_texts: Callable[[list[str]], Tensor], captions: Sequence[Sequence[str]]
) -> Tensor:
    """[N,K] cosine of each image with each of its K captions, by the model's own CLIP.

    Args:
        features: [N,F] of the images.
        projection: [P,F] from features to the space of the texts.
        encode_texts: texts -> [B,P] pooled texts.
        captions: K texts for each image; equal lists are encoded once.
    """
    images = F.normalize(features.float() @ projection.to(features).float().T, dim=1)
    texts = {
        key: F.normalize(encode_texts(list(key)).to(features.device).float(), dim=1)
        for key in {tuple(c) for c in captions}
    }
    return torch.stack([texts[tuple(own)] @ image for own, image in zip(captions, images, strict=True)])
