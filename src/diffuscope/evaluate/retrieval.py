"""Is it what was asked for? A picture must lie nearest to the real pictures of its own concept."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope.errors import InputError
from diffuscope.models.efficientnet import EfficientNet


class Gallery:
    """Concepts, each as the mean feature of its real pictures.

    Args:
        features: [M,F] of real pictures.
        concepts: of each picture.
        styles: of each picture.
    """

    def __init__(self, features: Tensor, concepts: Sequence[str], styles: Sequence[str]) -> None:
        if not len(features) == len(concepts) == len(styles):
            raise InputError(f"{len(features)} features, {len(concepts)} concepts, {len(styles)} styles: one each")
        self.names = tuple(sorted(set(concepts)))
        self.index = {name: i for i, name in enumerate(self.names)}
        self._features, self._styles = features.float(), tuple(styles)
        self._rows = torch.tensor([self.index[concept] for concept in concepts], device=features.device)
        self._means: dict[str | None, Tensor] = {}

    def means(self, without: str | None) -> Tensor:
        """[K,F] unit vectors: each concept's mean over all styles but one. Zero where no other style has it."""
        if without not in self._means:
            kept = torch.tensor([style != without for style in self._styles], device=self._features.device)
            sums = self._features.new_zeros(len(self.names), self._features.shape[1])
            sums.index_add_(0, self._rows[kept], self._features[kept])
            self._means[without] = F.normalize(sums, dim=1)  # the mean's direction is the sum's
        return self._means[without]

    def similarity(self, features: Tensor, without: Sequence[str | None]) -> Tensor:
        """[N,K] cosine of each picture's feature with each concept, its style ``without`` left out of the gallery."""
        out = features.new_zeros(len(features), len(self.names), dtype=torch.float32)
        rows: dict[str | None, list[int]] = defaultdict(list)
        for row, style in enumerate(without):
            rows[style].append(row)
        for style, own in rows.items():
            index = torch.tensor(own, device=features.device)
            out[index] = F.normalize(features[index].float(), dim=1) @ self.means(style).T
        return out


def within(similarity: Tensor, own: Tensor, first: int) -> Tensor:
    """[N] whether column ``own`` [N] of ``similarity`` [N,K] is among the ``first`` largest of its row.

    Ties count against it, and so do values that are not numbers.
    """
    mine = similarity.gather(1, own[:, None])
    # The own column is never larger than itself, so it counts once.
    return (~(mine > similarity)).sum(1) <= first


@torch.no_grad()
def features(feature_net: EfficientNet, pictures: Tensor, chunk: int = 250) -> Tensor:
    """[N,F] pooled features of uint8 pictures [N,3,H,W], float32 on the feature network's device."""
    device = feature_net.stem.weight.device
    return torch.cat([feature_net.features(part.to(device).float() / 255).pooled for part in pictures.split(chunk)])


@torch.no_grad()
def tower_similarity(
    features: Tensor, matrix: Tensor, encode: Callable[[list[str]], Tensor], captions: Sequence[Sequence[str]]
) -> Tensor:
    """[N,K] cosine of each picture with each of its K captions, by the model's own towers.

    Args:
        features: [N,F] of the pictures.
        matrix: [P,F] the picture tower's.
        encode: texts -> [B,P] pooled texts.
        captions: K texts for each picture; equal lists are encoded once.
    """
    pictures = F.normalize(features.float() @ matrix.to(features).float().T, dim=1)
    texts = {
        key: F.normalize(encode(list(key)).to(features.device).float(), dim=1) for key in {tuple(c) for c in captions}
    }
    return torch.stack([texts[tuple(own)] @ picture for own, picture in zip(captions, pictures, strict=True)])
