"""Prompt-to-prompt (Hertz et al. 2023): generate an edited prompt with the attention of a source prompt.

Run both prompts in one call with one seed, the source first:
``pipe(["a cat on a bike", "a dog on a bike"], seed=[7, 7], tap=Replace(pipe.tokenizer))``.
The source's image does not change.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import final

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.attention_maps import CROSS_ATTENTION
from diffuscope.lens.run_tap import RunTap
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline.plan import Plan
from diffuscope.prompt.positions import word_tokens

SELF_ATTENTION = "unet.*.self_attn.weights"


class PromptToPrompt(RunTap):
    """Copies attention weights from the first image of a run to the others.

    Self-attention is copied where its map is small: it holds the composition. Cross-attention is copied by ``cross``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        cross_fraction: float = 0.8,
        self_fraction: float = 0.4,
        self_max_tokens: int = 256,
    ) -> None:
        """Set what is copied; the defaults are those of the published examples.

        Args:
            tokenizer: the pipeline's.
            cross_fraction: of the network calls, from the first, in which cross-attention is copied; 0 to 1.
            self_fraction: the same of self-attention.
            self_max_tokens: self-attention over more image tokens is left alone.

        Raises:
            InputError: a fraction is outside [0, 1].
        """
        for name, fraction in (("cross_fraction", cross_fraction), ("self_fraction", self_fraction)):
            if not 0 <= fraction <= 1:
                raise InputError(name, fraction, "a fraction of the network calls, 0 to 1")
        super().__init__(*((CROSS_ATTENTION,) if cross_fraction else ()), *((SELF_ATTENTION,) if self_fraction else ()))
        self.tokenizer = tokenizer
        self.cross_fraction = cross_fraction
        self.self_fraction = self_fraction
        self.self_max_tokens = self_max_tokens

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Align the prompts of the run; refuse fewer than two images, or different seeds."""
        super().prepare(components, plan)
        if plan is None:
            return
        if plan.request.prompt_syntax != "plain":
            raise InputError("prompt_syntax", plan.request.prompt_syntax, "plain, by which words are matched")
        if plan.images < 2 or len(set(plan.seeds)) != 1:
            got = Unquoted(f"images with the seeds {list(plan.seeds)}")
            hint = "For example: pipe([source, edit], seed=[7, 7], tap=...)."
            raise InputError("prompt", got, "a source prompt and its edits, with one seed for all", hint)
        prompts = [prompt for prompt in plan.prompts for _ in range(plan.request.num_images_per_prompt)]
        self.align(prompts)

    @abstractmethod
    def align(self, prompts: Sequence[str]) -> None:
        """Match the tokens of each prompt, one per image, with those of the first."""

    @abstractmethod
    def cross(self, source: Tensor, edit: Tensor, image: int) -> Tensor:
        """[N,T,S] cross-attention weights of an edit, from the source's and its own."""

    def change(self, name: str, value: Tensor) -> Tensor:
        """Weights [B,N,T,S] with the edits' rows replaced."""
        crossing = name.endswith("cross_attn.weights")
        fraction = self.cross_fraction if crossing else self.self_fraction
        if self.call >= round(fraction * self.calls) or (not crossing and value.shape[-1] > self.self_max_tokens):
            return value
        changed = value.clone()
        rows = self.conditional(changed)
        for k in range(1, len(rows)):
            rows[k] = self.cross(rows[0], rows[k], k) if crossing else rows[0]
        return changed


@final
class Replace(PromptToPrompt):
    """Word swap: each word of the edit gets the attention of the word at its place in the source.

    The prompts have equally many words; tokens of words of unequal length share the attention.
    """

    def align(self, prompts: Sequence[str]) -> None:
        """Build the mappers; refuses prompts with different numbers of words."""
        self.mappers = [replacement_mapper(prompts[0], prompt, self.tokenizer) for prompt in prompts]

    def cross(self, source: Tensor, edit: Tensor, image: int) -> Tensor:  # noqa: ARG002
        """The source's weights, moved to the edit's tokens."""
        return source @ self.mappers[image].to(source)


@final
class Refine(PromptToPrompt):
    """Words added or removed: common words keep the source's attention, new ones have their own."""

    def align(self, prompts: Sequence[str]) -> None:
        """Align each edit with the source."""
        self.alignments = [refinement_alignment(prompts[0], prompt, self.tokenizer) for prompt in prompts]

    def cross(self, source: Tensor, edit: Tensor, image: int) -> Tensor:
        """The source's weights for common tokens, the edit's for new ones."""
        partners = torch.tensor(self.alignments[image], device=source.device)
        return torch.where(partners >= 0, source[..., partners.clamp_min(0)], edit)


@final
class Reweight(RunTap):
    """Multiplies the cross-attention of some tokens, so that they count more or less. Rows then do not sum to 1.

    ``compose(Refine(...), Reweight(...))`` reweights the edited attention.
    """

    def __init__(self, factors: Mapping[int, float], *, images: Sequence[int] | None = None) -> None:
        """Set the factors.

        Args:
            factors: token position -> factor, -2 to 2 in the paper; ``prompt.positions.token_positions`` finds them.
            images: numbers of images in the run; None is all.

        Raises:
            InputError: a factor is not finite, or a position is below 0.
        """
        super().__init__(CROSS_ATTENTION)
        for position, factor in factors.items():
            if position < 0 or not math.isfinite(factor):
                raise InputError("factors", {position: factor}, "finite factors for positions from 0")
        self.factors = dict(factors)
        self.only = images

    def change(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """Weights [B,N,T,S] with the conditional rows' columns multiplied; refuses a position beyond the text."""
        factors = torch.ones(value.shape[-1])
        for position, factor in self.factors.items():
            if position >= len(factors):
                raise InputError("factors", {position: factor}, f"positions 0 to {len(factors) - 1}")
            factors[position] = factor
        changed = value.clone()
        rows = self.conditional(changed)
        for k in range(len(rows)) if self.only is None else self.only:
            rows[k] *= factors.to(value)
        return changed


def replacement_mapper(source: str, edit: str, tokenizer: Tokenizer) -> Tensor:
    """[S,S] the matrix M of a word swap: ``weights_edit = weights_source @ M``.

    Word k maps to word k. If a word has more or fewer tokens than its partner, each of its tokens shares in all of the
    partner's, so that the word's total attention is kept. Padding maps in order.
    """
    first, second = word_tokens(source, tokenizer), word_tokens(edit, tokenizer)
    if len(first) != len(second):
        want = f"{len(first)} words, as in the source {source!r}"
        raise InputError("prompt", Unquoted(f"{edit!r} with {len(second)} words"), want, "Use Refine to add words.")
    length = tokenizer.length
    matrix = torch.zeros(length, length)
    matrix[0, 0] = 1
    ends = [1, 1]
    for old, new in zip(first, second, strict=True):
        if not old.positions or not new.positions:
            break
        if len(old.positions) == len(new.positions):
            matrix[list(old.positions), list(new.positions)] = 1
        else:
            for position in old.positions:
                matrix[position, list(new.positions)] = 1 / len(new.positions)
        ends = [old.positions[-1] + 1, new.positions[-1] + 1]
    rest = length - max(ends)
    matrix[ends[0] + torch.arange(rest), ends[1] + torch.arange(rest)] = 1
    matrix[ends[0] + rest :, length - 1] = 1  # padding beyond the edit's end
    return matrix


def refinement_alignment(source: str, edit: str, tokenizer: Tokenizer) -> list[int]:
    """For each token position of the edit the position of the same token in the source, or -1 for a new one."""
    length = tokenizer.length
    first = [0, *tokenizer.tokenize(source)[: length - 2]]
    second = [0, *tokenizer.tokenize(edit)[: length - 2]]
    alignment = [-1] * length
    for block in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            alignment[block.b + i] = block.a + i
    for i in range(length - len(second)):
        alignment[len(second) + i] = min(len(first) + i, length - 1)
    return alignment
