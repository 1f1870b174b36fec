"""Prompt-to-prompt: paint one prompt with the attention of another (Hertz et al. 2023), as taps.

Run both prompts in one call with one seed, the source first:
``pipe(["a cat on a bike", "a dog on a bike"], seed=[7, 7], tap=Replace(...))``. The source's picture is unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.lens.attention_maps import CROSS
from diffuscope.lens.run_tap import RunTap
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline.request import Request
from diffuscope.prompt.positions import word_tokens

SELF = "unet.*.self.weights"


class PromptToPrompt(RunTap):
    """Carries attention weights from the first picture of a run over to the others.

    Cross-attention is edited by ``cross`` in the first share of the network calls. Self-attention is the source's in
    the first calls too, where the map is small: it holds the composition.
    """

    def __init__(self, *, cross_share: float, self_share: float, self_tokens: int) -> None:
        """Set the shares of the calls that are edited.

        Args:
            cross_share: of cross-attention, 0 to 1; the published examples have 0.8.
            self_share: of self-attention; those have 0.4.
            self_tokens: self-attention of more tokens is left alone; those have 16 x 16.

        Raises:
            InputError: a share is outside [0, 1].
        """
        for name, share in (("cross_share", cross_share), ("self_share", self_share)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; give a share of the network calls, 0 to 1")
        super().__init__(*((CROSS,) if cross_share else ()), *((SELF,) if self_share else ()))
        self.cross_share = cross_share
        self.self_share = self_share
        self.self_tokens = self_tokens

    def prepare(self, components: Sequence[nn.Module], request: Request | None) -> None:
        """Check the run: at least two pictures, of one seed.

        Raises:
            InputError: it is not a run of a source and its edits.
        """
        super().prepare(components, request)
        if request is None:
            return
        if request.images < 2 or len(set(request.seed)) != 1:
            raise InputError(
                f"{request.images} pictures of seeds {list(request.seed)}; give the source prompt and its edits in one "
                "call with one seed for all: pipe([source, edit], seed=[7, 7], ...)"
            )
        prompts = [prompt for prompt in request.prompt for _ in range(request.num_images_per_prompt)]
        self.match(prompts)

    def match(self, prompts: Sequence[str]) -> None:
        """Compare the prompts, one a picture, the source first; a kind of edit may need to know how they differ."""

    def change(self, name: str, value: Tensor) -> Tensor:
        """The weights [B,N,T,S], in which the edits' rows may be the source's."""
        crossing = name.endswith("cross.weights")
        share = self.cross_share if crossing else self.self_share
        if self.call >= round(share * self.calls) or (not crossing and value.shape[-1] > self.self_tokens):
            return value
        changed = value.clone()
        rows = self.conditional(changed)
        for k in range(1, len(rows)):
            rows[k] = self.cross(rows[0], rows[k], k) if crossing else rows[0]
        return changed

    def cross(self, source: Tensor, own: Tensor, picture: int) -> Tensor:
        """[N,T,S] cross-attention weights of an edit, from the source's and its own; the source's, unless told."""
        del own, picture
        return source


class Replace(PromptToPrompt):
    """Word swap: each word of the edit is painted where the word in its place was."""

    def __init__(
        self, tokenizer: Tokenizer, *, cross_share: float = 0.8, self_share: float = 0.4, self_tokens: int = 256
    ) -> None:
        """For prompts of as many words: tokens of words of unequal length share the attention."""
        super().__init__(cross_share=cross_share, self_share=self_share, self_tokens=self_tokens)
        self.tokenizer = tokenizer
        self.maps: list[Tensor] = []

    def match(self, prompts: Sequence[str]) -> None:
        """Find the map from the source's tokens to each edit's.

        Raises:
            InputError: the prompts have different numbers of words.
        """
        self.maps = [replacement(prompts[0], prompt, self.tokenizer) for prompt in prompts]

    def cross(self, source: Tensor, own: Tensor, picture: int) -> Tensor:  # noqa: ARG002
        """The source's weights, moved to the edit's tokens."""
        return source @ self.maps[picture].to(source)


class Refine(PromptToPrompt):
    """Words added: those that both prompts have keep the source's attention, new ones have their own."""

    def __init__(
        self, tokenizer: Tokenizer, *, cross_share: float = 0.8, self_share: float = 0.4, self_tokens: int = 256
    ) -> None:
        """For an edit that adds words to the source, or takes some away."""
        super().__init__(cross_share=cross_share, self_share=self_share, self_tokens=self_tokens)
        self.tokenizer = tokenizer
        self.sources: list[list[int]] = []

    def match(self, prompts: Sequence[str]) -> None:
        """Align each edit with the source."""
        self.sources = [alignment(prompts[0], prompt, self.tokenizer) for prompt in prompts]

    def cross(self, source: Tensor, own: Tensor, picture: int) -> Tensor:
        """The source's weights where a token has a partner there, its own elsewhere."""
        partners = torch.tensor(self.sources[picture], device=source.device)
        return torch.where(partners >= 0, source[..., partners.clamp_min(0)], own)


class Reweight(RunTap):
    """Words stronger or weaker: their cross-attention is multiplied.

    Acts on every picture of a run; rows no longer add up to 1. All factors 1 changes nothing, to the bit. With
    ``compose(Refine(...), Reweight(...))`` it acts on the edited attention.
    """

    def __init__(self, factors: Mapping[int, float], *, images: Sequence[int] | None = None) -> None:
        """Set the factors.

        Args:
            factors: token position -> factor, -2 to 2 in the paper; ``prompt.positions.token_positions`` finds them.
            images: which pictures of the run; None is all.

        Raises:
            InputError: a factor is not finite, or a position is below 0.
        """
        super().__init__(CROSS)
        for position, factor in factors.items():
            if position < 0 or not math.isfinite(factor):
                raise InputError(f"factor {factor} at position {position}; give finite factors for positions from 0")
        self.factors = dict(factors)
        self.only = images

    def change(self, name: str, value: Tensor) -> Tensor:
        """The weights [B,N,T,S], with the conditional rows' columns multiplied.

        Raises:
            InputError: a position beyond the text.
        """
        factors = torch.ones(value.shape[-1])
        for position, factor in self.factors.items():
            if position >= len(factors):
                raise InputError(f"{name} has positions 0 to {len(factors) - 1}, not {position}")
            factors[position] = factor
        changed = value.clone()
        rows = self.conditional(changed)
        for k in range(len(rows)) if self.only is None else self.only:
            rows[k] *= factors.to(value)
        return changed


def replacement(source: str, edit: str, tokenizer: Tokenizer) -> Tensor:
    """[S,S] how the source's tokens' attention goes to the edit's: ``weights_edit = weights_source @ it``.

    Word k goes to word k. Where a word has fewer or more tokens than its partner, each of its tokens shares in all of
    the partner's, so that the word's whole attention is kept. After the last word the places correspond in order.

    Raises:
        InputError: the prompts have different numbers of words.
    """
    first, second = word_tokens(source, tokenizer), word_tokens(edit, tokenizer)
    if len(first) != len(second):
        raise InputError(
            f"{source!r} has {len(first)} words and {edit!r} {len(second)}; to swap words give as many, or use Refine"
        )
    length = tokenizer.length
    matrix = torch.zeros(length, length)
    matrix[0, 0] = 1
    ends = [1, 1]
    for old, new in zip(first, second, strict=True):
        if not old.positions or not new.positions:
            break
        if old.positions and len(old.positions) == len(new.positions):
            matrix[list(old.positions), list(new.positions)] = 1
        else:
            for position in old.positions:
                matrix[position, list(new.positions)] = 1 / len(new.positions)
        ends = [old.positions[-1] + 1, new.positions[-1] + 1]
    rest = length - max(ends)
    matrix[ends[0] + torch.arange(rest), ends[1] + torch.arange(rest)] = 1
    matrix[ends[0] + rest :, length - 1] = 1  # padding that the longer prompt has no place for
    return matrix


def alignment(source: str, edit: str, tokenizer: Tokenizer) -> list[int]:
    """For each position of the edit the position of the same token in the source, or -1 for a new one."""
    length = tokenizer.length
    first = [0, *tokenizer.tokenize(source)[: length - 2]]
    second = [0, *tokenizer.tokenize(edit)[: length - 2]]
    found = [-1] * length
    for block in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            found[block.b + i] = block.a + i
    for i in range(length - len(second)):
        found[len(second) + i] = min(len(first) + i, length - 1)
    return found
