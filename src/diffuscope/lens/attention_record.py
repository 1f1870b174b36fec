"""Attention of every network call of a run, small enough for a page: bytes with a scale for each map."""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.attention_maps import CROSS_ATTENTION, token_grid
from diffuscope.lens.run_tap import RunTap
from diffuscope.lens.shapes import shapes
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.taps import matching
from diffuscope.prompt.positions import WordTokens, word_tokens

SELF_ATTENTION = "unet.*.self_attn.weights"

BUDGET = 8 << 20
"""Bytes of all maps of a run."""

FINEST = 16
"""Side of a map, in positions, to which larger ones are averaged where all would be beyond the budget."""


def as_bytes(maps: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """uint8 maps, and the value of 255 of each: the maximum over the last ``dims`` dimensions."""
    scale = maps.amax(tuple(range(-dims, 0)), keepdim=True).clamp_min(1e-12)
    return (maps / scale * 255).round().byte().cpu(), scale.reshape(maps.shape[:-dims]).float().cpu()


class _Record(RunTap):
    """Bytes of each chosen layer and call, of one image of a run."""

    def __init__(self, pattern: str, image: int, budget: int) -> None:
        if budget < 1:
            raise InputError("budget", budget, "at least 1 byte")
        super().__init__(pattern)
        self.image, self.budget = image, budget
        self.grids: dict[str, tuple[int, int]] = {}
        """Layer -> height and width of its maps as they are kept; in the order in which the layers run."""
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._own: dict[str, tuple[int, int]] = {}

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find the layers and the size of their maps; forget an earlier run."""
        super().prepare(components, plan)
        if plan is None or not 0 <= self.image < plan.images:
            got = Unquoted("no run") if plan is None else self.image
            raise InputError("image", got, f"0 to {0 if plan is None else plan.images - 1}, as in the run")
        size = plan.preset.height, plan.preset.width
        known = shapes(components, plan, {"unet"})
        self._own = {
            name: token_grid(known[name][2], size) for name in matching(self.patterns[0], components) if name in known
        }
        self._heads = {name: known[name][1] for name in self._own}
        self._kept = {name: [] for name in self._own}
        self.grids = dict(self._own)

    def _pool(self) -> None:
        """Keep maps of at most FINEST x FINEST."""
        self.grids = {name: (min(h, FINEST), min(w, FINEST)) for name, (h, w) in self._own.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Layer -> uint8 maps of the calls so far, and layer.scale -> float32, the value of 255 of each map."""
        found: dict[str, Tensor] = {}
        count = min(map(len, self._kept.values()), default=0)  # a run that is under way may be within a call
        for name, kept in self._kept.items():
            if count:
                layer = name.removesuffix(".weights")
                found[layer] = torch.stack([maps for maps, _ in kept[:count]])
                found[f"{layer}.scale"] = torch.stack([scale for _, scale in kept[:count]])
        return found


@final
class CrossAttentionRecord(_Record):
    """A Tap that keeps how each position's attention is divided among the words, by call, layer and head.

    ``tensors()`` has for each layer [calls,heads,words,h,w]; the rows of words are ``words``, then the start of the
    text, then all the rest: its end and the padding. At each position they sum to 1. Beyond the budget the heads are
    averaged, then maps are averaged to 16x16.
    """

    def __init__(self, tokenizer: Tokenizer, *, image: int = 0, budget: int = BUDGET) -> None:
        """Set what is kept.

        Args:
            tokenizer: the pipeline's.
            image: its number in the run.
            budget: bytes of all maps.

        Raises:
            InputError: the budget is below 1; and when a run is prepared: it has no such image, or too many words,
                layers and calls for the budget.
        """
        super().__init__(CROSS_ATTENTION, image, budget)
        self.tokenizer = tokenizer
        self.words: list[WordTokens] = []
        self.averages_heads = False

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find words and layers, and decide what fits."""
        super().prepare(components, plan)
        assert plan is not None  # refused above
        text = plan.per_image([parts[0].texts[0] for parts in plan.parts])[self.image]
        words = word_tokens(text, self.tokenizer, plan.request.prompt_syntax)
        self.words = [word for word in words if word.positions]
        self.averages_heads = False
        if self._bytes() > self.budget:
            self.averages_heads = True
        if self._bytes() > self.budget:
            self._pool()
        if (needed := self._bytes()) > self.budget:
            raise InputError("budget", Unquoted(f"{self.budget:,} bytes"), f"at least {needed:,}", "Use fewer steps.")
        self._groups: Tensor | None = None

    def _bytes(self) -> int:
        maps = sum(h * w * (1 if self.averages_heads else self._heads[name]) for name, (h, w) in self.grids.items())
        return self.calls * (len(self.words) + 2) * maps

    def _columns(self, length: int) -> Tensor:
        """[S,W+2] which token belongs to which row."""
        groups = torch.zeros(length, len(self.words) + 2)
        groups[:, -1] = 1
        for row, positions in enumerate([*(word.positions for word in self.words), (0,)]):
            groups[list(positions), -1] = 0
            groups[list(positions), row] = 1
        return groups

    def change(self, name: str, value: Tensor) -> Tensor:
        """Keep the weights [B,N,T,S]; they stay as they are."""
        weights = self.conditional(value)[self.image].detach().float()
        if self._groups is None or self._groups.shape[0] != weights.shape[-1]:
            self._groups = self._columns(weights.shape[-1]).to(weights)
        maps = (weights @ self._groups).transpose(1, 2).unflatten(2, self._own[name])  # [N,W,h,w]
        if self.averages_heads:
            maps = maps.mean(0, keepdim=True)
        if self.grids[name] != self._own[name]:
            maps = F.adaptive_avg_pool2d(maps, self.grids[name])
        self._kept[name].append(as_bytes(maps, 2))
        return value


@final
class SelfAttentionRecord(_Record):
    """A Tap that keeps to which positions each position attends, by call and layer, averaged over heads.

    ``tensors()`` has for each layer [calls,h,w,h,w]: a position, and the attention that it pays to each. Maps are
    averaged to 16x16 positions; calls that do not fit into the budget are left out evenly.
    """

    def __init__(self, *, image: int = 0, budget: int = BUDGET) -> None:
        """Set what is kept.

        Args:
            image: its number in the run.
            budget: bytes of all maps.

        Raises:
            InputError: the budget is below 1; and when a run is prepared: it has no such image, or no call fits.
        """
        super().__init__(SELF_ATTENTION, image, budget)
        self.kept_calls: tuple[int, ...] = ()

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find the layers, and the calls that fit."""
        super().prepare(components, plan)
        self._pool()
        one = sum((h * w) ** 2 for h, w in self.grids.values())
        count = min(self.calls, self.budget // max(one, 1))
        if count < 1:
            raise InputError("budget", Unquoted(f"{self.budget:,} bytes"), f"at least {one:,}, for one network call")
        last = self.calls - 1
        self.kept_calls = tuple(sorted({round(k * last / max(count - 1, 1)) for k in range(count)}))

    def change(self, name: str, value: Tensor) -> Tensor:
        """Keep the weights [B,N,T,T]; they stay as they are."""
        if self.call not in self.kept_calls:
            return value
        own, grid = self._own[name], self.grids[name]
        weights = self.conditional(value)[self.image].detach().float().mean(0)
        if grid != own:
            ratio = own[0] * own[1] / (grid[0] * grid[1])
            weights = F.adaptive_avg_pool2d(weights.unflatten(1, own), grid).flatten(1) * ratio  # summed over keys
            weights = F.adaptive_avg_pool2d(weights.T.unflatten(1, own), grid).flatten(1).T  # averaged over queries
        self._kept[name].append(as_bytes(weights.unflatten(1, grid).unflatten(0, grid), 2))
        return value
