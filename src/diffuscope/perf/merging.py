"""Token merging (Bolya & Hoffman 2023, ToMe for Stable Diffusion): attention among fewer tokens. An approximation.

In each cell of 2x2 pixels one token stays, at a place that is drawn once for a size and is the same in every call. Of
the others those that are most similar to some token that stays are averaged into it before the attention, and get its
result afterwards. Nothing depends on other rows of the batch.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


class Merge:
    """Which tokens of [B,H*W,C] are merged into which.

    Attributes:
        count: how many tokens are left.
    """

    def __init__(self, x: Tensor, height: int, width: int, share: float) -> None:
        """By the cosine similarity of the tokens ``x``: ``share`` of all are merged, or as many as may be."""
        rows, tokens = x.shape[:2]
        self._stay, self._rest = (each.to(x.device) for each in places(height, width))
        merged = min(int(share * tokens), len(self._rest))
        self.count, kept = tokens - merged, len(self._rest) - merged
        unit = F.normalize(x, dim=-1)
        best, into = (unit[:, self._rest] @ unit[:, self._stay].transpose(1, 2)).max(-1)
        self._order = best.sort(dim=-1, descending=True, stable=True).indices
        self._merged = merged
        self._into = into.gather(1, self._order[:, :merged])
        ranks = torch.empty_like(self._order)
        after = torch.arange(kept, device=x.device).expand(rows, -1)
        ranks.scatter_(1, self._order, torch.cat([kept + self._into, after], dim=1))
        self._place = torch.empty(rows, tokens, dtype=torch.long, device=x.device)  # of each token among those left
        self._place[:, self._stay] = kept + torch.arange(len(self._stay), device=x.device)
        self._place[:, self._rest] = ranks

    def merged(self, x: Tensor) -> Tensor:
        """[B,count,C] of [B,H*W,C]: tokens that stay are the mean of themselves and of what is merged into them."""
        gone, kept = self._picked(x[:, self._rest], self._order).tensor_split([self._merged], dim=1)
        numbers = torch.arange(len(self._stay), device=x.device)[:, None]
        sums = (self._into[:, None] == numbers).to(x.dtype)  # a product, since adding by index has no fixed order
        stay = (x[:, self._stay] + sums @ gone) / (1 + sums.sum(-1, keepdim=True))
        return torch.cat([kept, stay], dim=1)

    def restored(self, y: Tensor) -> Tensor:
        """[B,H*W,C] of [B,count,C]: each token gets what it was merged into."""
        return self._picked(y, self._place)

    def _picked(self, x: Tensor, indices: Tensor) -> Tensor:
        return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


@lru_cache(maxsize=64)
def places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The indices of the tokens that stay, one in each whole cell of 2x2, and of the others."""
    numbers = torch.arange(height * width).view(height, width)
    whole = numbers[: height // 2 * 2, : width // 2 * 2].unfold(0, 2, 2).unfold(1, 2, 2).flatten(2).flatten(0, 1)
    drawn = torch.randint(4, (len(whole), 1), generator=torch.Generator().manual_seed(0))
    stay = whole.gather(1, drawn).flatten()
    rest = torch.ones(height * width, dtype=torch.bool)
    rest[stay] = False
    return stay, rest.nonzero().flatten()
