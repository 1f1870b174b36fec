"""Inspect the text encoder: each layer's states, the tokens nearest to a vector, and a report on a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.word_effects import LITTLE
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer, WordTrace
from diffuscope.pipeline import Pipeline
from diffuscope.prompt import truncation_notice
from diffuscope.prompt.embeddings import TextModel, text_parts
from diffuscope.prompt.parts import parts_of
from diffuscope.prompt.positions import WordTokens, untrained_words, word_tokens
from diffuscope.prompt.windows import layout
from diffuscope.request import Syntax
from diffuscope.types import Conditioning


@torch.no_grad()
def layer_conditioning(pipe: Pipeline, prompt: str | Sequence[str], layer: int) -> Conditioning:
    """The Conditioning of a text encoder that stops after some layers: Diffusion Lens (Toker et al. 2024).

    Args:
        pipe: the model.
        prompt: one or several texts.
        layer: 0 is the embeddings alone, the number of layers is what ``encode_prompt`` returns; below 0 it counts
            from the end. The states pass the final norm, as in the paper.

    Raises:
        InputError: no such layer, or a model with two text encoders.
    """
    if pipe.text_encoder_2 is not None:
        raise InputError("pipe", Unquoted("two text encoders"), "a model with one", "Use a tap on each.")
    count = len(pipe.text_encoder.layer)
    if not -count - 1 <= layer <= count:
        raise InputError("layer", layer, f"0 to {count}, or {-count - 1} to -1")
    ids = pipe.tokenizer.encode([prompt] if isinstance(prompt, str) else list(prompt))
    with pipe.engine.using(pipe.text_encoder):
        states = pipe.text_encoder(ids.to(pipe.device))
        return Conditioning(pipe.text_encoder.final_norm(states.hidden_states[layer]), ids, states.pooled)


def layer_conditionings(pipe: Pipeline, prompt: str) -> list[Conditioning]:
    """``layer_conditioning`` of each layer, the embeddings first, for ``pipe(conditioning=...)``."""
    return [layer_conditioning(pipe, prompt, layer) for layer in range(len(pipe.text_encoder.layer) + 1)]


@dataclass(frozen=True, slots=True)
class NearestToken:
    """A token of the vocabulary, and its cosine similarity with a vector."""

    token: str
    id: int
    cosine: float


@torch.no_grad()
def nearest_tokens(
    vector: Tensor, tokenizer: Tokenizer | TextModel, text_encoder: TextEncoder | None = None, count: int = 5
) -> list[NearestToken]:
    """The tokens whose embeddings have the largest cosine similarity with ``vector``, the nearest first.

    Embeddings of zeros, such as a packed model's of tokens that it never saw, are left out.

    Args:
        vector: [D], not zero.
        tokenizer: the text encoder's; or a Pipeline, in the place of both.
        text_encoder: has the embeddings.
        count: at most so many.

    Raises:
        InputError: the vector has another width, or is zero.
    """
    tokenizer, text_encoder = text_parts(tokenizer, text_encoder)
    width = text_encoder.token_embedding.weight.shape[1:]
    if vector.shape != width or not vector.norm() > 0:
        raise InputError("vector", vector, f"a vector [{width.numel()}] that is not zero")
    return nearest_of_each(vector[None], tokenizer, text_encoder, count)[0]


@torch.no_grad()
def nearest_of_each(
    vectors: Tensor, tokenizer: Tokenizer, text_encoder: TextEncoder, count: int
) -> list[list[NearestToken]]:
    """``nearest_tokens`` of vectors [N,D], in one product with the table of embeddings."""
    table = text_encoder.token_embedding.weight.float()
    norms = table.norm(dim=1)
    cosines = (F.normalize(vectors.to(table), dim=1) @ table.T / norms).masked_fill(norms == 0, -2.0)
    values, ids = cosines.topk(min(count, len(table)))
    return [
        [
            NearestToken(tokenizer.tokens[i], i, value)
            for i, value in zip(row_ids, row, strict=True)
            if value > -2 and i < len(tokenizer.tokens)
        ]
        for row_ids, row in zip(ids.tolist(), values.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class PromptReport:
    """How a model reads a prompt. ``str()`` is a table."""

    prompt: str
    words: tuple[WordTrace, ...]
    """Each word, with the merges that made its tokens."""
    tokens: tuple[WordTokens, ...]
    """Each word's token ids and positions."""
    limit: int
    """Number of tokens that fit."""
    truncated: str | None
    """A sentence with the words that do not fit, or None."""
    weights: Mapping[int, float]
    """Position -> weight; 1 for all others."""
    unknown: tuple[str, ...]
    """Words with a token that was never trained: its embedding is zero."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Word -> attention peak, 1 for the mean of all words; empty without an image."""
    effects: Mapping[str, float] = field(default_factory=dict)
    """Word -> what leaving it out changes, 1 for the whole prompt; empty without an image."""

    def neglected(self, below: float = LITTLE) -> list[str]:
        """Words that the run would hardly miss: those with an effect below ``below``."""
        return [word for word, effect in self.effects.items() if effect < below]

    def __str__(self) -> str:
        used = sum(len(tokens.ids) for tokens in self.tokens)
        lines = [f"{self.prompt!r}: {used} tokens of {self.limit}"]
        for word, tokens in zip(self.words, self.tokens, strict=True):
            positions = ",".join(map(str, tokens.positions)) or "cut"
            line = f"{positions:>8}  {word.word:<16} {' + '.join(word.pieces)}  {list(tokens.ids)}"
            factors = {self.weights.get(position, 1.0) for position in tokens.positions}
            line += "".join(f"  weight {factor:g}" for factor in sorted(factors) if factor != 1.0)
            line += f"  effect {self.effects[word.word]:.2f}" if word.word in self.effects else ""
            line += f"  peak {self.peaks[word.word]:.2f}" if word.word in self.peaks else ""
            lines.append(line + ("  unknown to this model" if word.word in self.unknown else ""))
        return "\n".join([*lines, self.truncated] if self.truncated else lines)


@torch.no_grad()
def debug(
    pipe: Pipeline,
    prompt: str,
    *,
    weights: Mapping[int, float] | None = None,
    peaks: Mapping[str, float] | None = None,
    effects: Mapping[str, float] | None = None,
    prompt_syntax: Syntax = "plain",
) -> PromptReport:
    """Debug a prompt: its tokens, merges and positions, what is truncated, and what the model does not know.

    Args:
        pipe: the model.
        prompt: one text.
        weights: token position -> weight, as for ``prompt.mixing.weight_tokens``.
        peaks: of an image of this prompt: ``AttentionMaps.peaks()``.
        effects: of the words in a run of this prompt: ``word_effects(...)``.
        prompt_syntax: of the prompt, whose own weights are shown; of a prompt with changes or AND the first text.
    """
    tokenizer = pipe.tokenizer
    text = parts_of(prompt, prompt_syntax, pipe.config.preset.num_inference_steps)[0].texts[0]
    laid = layout(text, tokenizer, prompt_syntax)
    own = {
        number * tokenizer.length + 1 + offset: weight
        for number, window in enumerate(laid.windows)
        for offset, weight in enumerate(window.weights)
        if weight != 1.0
    }
    return PromptReport(
        prompt=prompt,
        words=tuple(trace for word, _ in laid.words for trace in tokenizer.trace(word)),
        tokens=tuple(word_tokens(text, tokenizer, prompt_syntax)),
        limit=len(laid.windows) * (tokenizer.length - 2),
        truncated=truncation_notice(prompt, tokenizer) if prompt_syntax == "plain" else None,
        weights=own | dict(weights or {}),
        unknown=untrained_words(
            text, tokenizer, pipe.text_encoder.token_embedding.weight, prompt_syntax, pipe.components.words
        ),
        peaks=dict(peaks or {}),
        effects=dict(effects or {}),
    )
