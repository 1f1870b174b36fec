"""Into the text encoder: the picture of each layer's states, the words nearest to a vector, and a prompt debugged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer, WordTrace
from diffuscope.pipeline import Pipeline
from diffuscope.prompt import truncation_notice
from diffuscope.prompt.positions import WordTokens, untrained_words, word_tokens
from diffuscope.types import Conditioning


@torch.no_grad()
def layer_conditioning(pipe: Pipeline, prompt: str | Sequence[str], layer: int) -> Conditioning:
    """What the U-Net is told if the text encoder stops after ``layer`` layers: Toker et al. 2024 (Diffusion Lens).

    The states go through the final norm, as there. 0 is the embeddings alone; the number of
    layers is what ``encode_prompt`` returns. A negative number counts from the end.

    Raises:
        InputError: the text encoder has no such layer, or the model reads two of them.
    """
    if pipe.text_encoder_2 is not None:
        raise InputError("this model reads two text encoders side by side; look into each by a tap")
    count = len(pipe.text_encoder.layer)
    if not -count - 1 <= layer <= count:
        raise InputError(f"the text encoder has no layer {layer}; 0 is its embeddings, {count} its last layer")
    ids = pipe.tokenizer.encode([prompt] if isinstance(prompt, str) else list(prompt))
    states = pipe.text_encoder(ids.to(pipe.device))
    return Conditioning(pipe.text_encoder.norm(states.hidden_states[layer]), ids, states.pooled)


def layer_conditionings(pipe: Pipeline, prompt: str) -> list[Conditioning]:
    """``layer_conditioning`` of each layer, the embeddings first: ``pipe(conditioning=...)`` paints each.

    Raises:
        InputError: the model reads two text encoders.
    """
    return [layer_conditioning(pipe, prompt, layer) for layer in range(len(pipe.text_encoder.layer) + 1)]


@dataclass(frozen=True, slots=True)
class NearestToken:
    """A word of the vocabulary, and how near it is."""

    token: str
    id: int
    cosine: float
    """Of the angle between its embedding and the vector: 1 is the same direction."""


@torch.no_grad()
def nearest_tokens(
    vector: Tensor, tokenizer: Tokenizer, text_encoder: TextEncoder, count: int = 5
) -> list[NearestToken]:
    """The ``count`` vocabulary entries whose embeddings lie nearest to ``vector`` [D], by the angle.

    Embeddings of zeros, such as a packed model's of words that it never saw, are no answer.

    Raises:
        InputError: the vector has another width, or is zero.
    """
    table = text_encoder.token.weight.float()
    if vector.shape != table.shape[1:] or not vector.norm() > 0:
        raise InputError(
            f"the vector has shape {list(vector.shape)} and length {float(vector.norm()):g}; "
            f"give one of shape [{table.shape[1]}] that is not zero"
        )
    cosines = F.cosine_similarity(table, vector.to(table)[None], dim=1)
    cosines = cosines.masked_fill(table.norm(dim=1) == 0, -2.0)
    values, ids = cosines.topk(min(count, len(cosines)))
    return [
        NearestToken(tokenizer.tokens[i], i, value)
        for i, value in zip(ids.tolist(), values.tolist(), strict=True)
        if value > -2 and i < len(tokenizer.tokens)
    ]


@dataclass(frozen=True)
class PromptReport:
    """What a model makes of a prompt's words. ``str()`` is a table."""

    prompt: str
    words: tuple[WordTrace, ...]
    """Each word, with the merges that made its tokens."""
    tokens: tuple[WordTokens, ...]
    """Each word's positions; none where it was cut."""
    room: int
    """Tokens that fit."""
    cut: str | None
    """A sentence that names what does not fit, or None."""
    weights: Mapping[int, float]
    """Position -> weight in force; a position that is not named has 1."""
    unknown: tuple[str, ...]
    """Words with a token that the model has no vector of: it sees zeros there."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Word -> how far it landed in the picture, 1 as an average word; empty before a picture is made."""

    def neglected(self, below: float = 0.5) -> list[str]:
        """Words that landed nowhere: less than ``below`` times as far as an average word."""
        return [word for word, score in self.peaks.items() if score < below]

    def __str__(self) -> str:
        used = sum(len(tokens.ids) for tokens in self.tokens)
        lines = [f"{self.prompt!r}: {used} tokens of {self.room}"]
        for word, tokens in zip(self.words, self.tokens, strict=True):
            at = ",".join(map(str, tokens.positions)) or "cut"
            line = f"{at:>8}  {word.word:<16} {' + '.join(word.pieces)}  {list(tokens.ids)}"
            factors = {self.weights.get(position, 1.0) for position in tokens.positions}
            line += "".join(f"  weight {factor:g}" for factor in sorted(factors) if factor != 1.0)
            line += f"  peak {self.peaks[word.word]:.2f}" if word.word in self.peaks else ""
            lines.append(line + ("  unknown to this model" if word.word in self.unknown else ""))
        return "\n".join([*lines, self.cut] if self.cut else lines)


@torch.no_grad()
def debug(
    pipe: Pipeline,
    prompt: str,
    *,
    weights: Mapping[int, float] | None = None,
    peaks: Mapping[str, float] | None = None,
) -> PromptReport:
    """A prompt taken apart: tokens, merges, positions, what was cut, what the model does not know.

    Args:
        pipe: the model.
        prompt: one text.
        weights: position -> weight in force, as given to ``prompt.mixing.weight_tokens``.
        peaks: after a picture is made, ``AttentionMaps.peaks()`` of it.
    """
    return PromptReport(
        prompt=prompt,
        words=tuple(pipe.tokenizer.trace(prompt)),
        tokens=tuple(word_tokens(prompt, pipe.tokenizer)),
        room=pipe.tokenizer.length - 2,
        cut=truncation_notice(prompt, pipe.tokenizer),
        weights=dict(weights or {}),
        unknown=untrained_words(prompt, pipe.tokenizer, pipe.text_encoder.token.weight),
        peaks=dict(peaks or {}),
    )
