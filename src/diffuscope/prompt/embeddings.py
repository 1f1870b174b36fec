"""Token surgery: edit the text encoder's input vector by vector, then encode it.

The encoder is causal: an edit at one position changes the states from there on, and none before. Where a function
takes a tokenizer and a text encoder, it takes a Pipeline in their place, too.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt.positions import token_positions
from diffuscope.types import Conditioning, Tap


class TextModel(Protocol):
    """A Pipeline, as far as text goes."""

    tokenizer: Tokenizer
    text_encoder: TextEncoder
    text_encoder_2: TextEncoder | None


def text_parts(model: Tokenizer | TextModel, text_encoder: TextEncoder | None) -> tuple[Tokenizer, TextEncoder]:
    """The two themselves, or those of a Pipeline.

    Raises:
        InputError: a Pipeline with two text encoders, or a tokenizer alone.
    """
    if isinstance(model, Tokenizer):
        if text_encoder is None:
            raise InputError("text_encoder", None, "the text encoder of the tokenizer, or a Pipeline for both")
        return model, text_encoder
    return model.tokenizer, encoder_of(model)


def encoder_of(model: TextEncoder | TextModel) -> TextEncoder:
    """A text encoder itself, or that of a Pipeline that has one alone."""
    if isinstance(model, TextEncoder):
        return model
    if getattr(model, "text_encoder_2", None) is not None:
        got = Unquoted("a Pipeline with two text encoders")
        raise InputError("pipe", got, "one of them with its tokenizer: pipe.tokenizer_2, pipe.text_encoder_2")
    return model.text_encoder


def word_embedding(word: str, tokenizer: Tokenizer | TextModel, text_encoder: TextEncoder | None = None) -> Tensor:
    """[D] the token embedding of a word, without a position; the mean over a word's several tokens.

    Args:
        word: with at least one token.
        tokenizer: the text encoder's; or a Pipeline, in the place of both.
        text_encoder: has the embeddings.

    Raises:
        InputError: the word has no token.
    """
    tokenizer, text_encoder = text_parts(tokenizer, text_encoder)
    ids = tokenizer.tokenize(word)
    if not ids:
        raise InputError("word", word, "at least one letter, digit or mark")
    return text_encoder.vectors(torch.tensor(ids, device=text_encoder.token_embedding.weight.device)).detach().mean(0)


def replace_embeddings(
    embeddings: Tensor, positions: Sequence[int], vector: Tensor, text_encoder: TextEncoder | TextModel
) -> Tensor:
    """[B,T,D] a copy of ``embeddings`` with ``vector`` for the tokens at ``positions``; position embeddings stay.

    Args:
        embeddings: [B,T,D] token plus position embeddings: ``text_encoder.embed(ids)``.
        positions: 0 is the start of text.
        vector: [D] a token embedding: of a word, a blend of several, or learned.
        text_encoder: has the position embeddings; or a Pipeline.

    Raises:
        InputError: a position outside of the text, or a vector of another width.
    """
    text_encoder = encoder_of(text_encoder)
    length, width = embeddings.shape[1:]
    if any(not 0 <= position < length for position in positions):
        raise InputError("positions", list(positions), f"positions from 0 to {length - 1}")
    if vector.shape != (width,):
        raise InputError("vector", vector, f"a token embedding of shape [{width}]")
    edited, index = embeddings.clone(), list(positions)
    edited[:, index] = vector.to(embeddings) + text_encoder.position_embedding.weight[index].to(embeddings)
    return edited


@torch.no_grad()
def encode_embeddings(
    embeddings: Tensor,
    ids: Tensor | None,
    text_encoder: TextEncoder | TextModel,
    tap: Tap | None = None,
    *,
    skip: int = 0,
) -> Conditioning:
    """The Conditioning of edited ``embeddings`` [B,T,D].

    Args:
        embeddings: as ``replace_embeddings`` returns them.
        ids: [B,T] mark where each text ends; None leaves out the pooled text, which only SDXL reads.
        text_encoder: runs on them; or a Pipeline.
        tap: reads or replaces activations.
        skip: layers left out at the end, as ``clip_skip``.
    """
    text_encoder = encoder_of(text_encoder)
    device = text_encoder.token_embedding.weight.device
    states = text_encoder.encode(embeddings.to(device), None if ids is None else ids.to(device), tap)
    return Conditioning(text_encoder.read(states, skip), ids, states.pooled)


@torch.no_grad()
def encode_with_embedding(
    text: str,
    word: str,
    vector: Tensor,
    tokenizer: Tokenizer | TextModel,
    text_encoder: TextEncoder | None = None,
) -> Conditioning:
    """The Conditioning of ``text`` with ``vector`` [D] for each token of ``word``.

    Swap words with ``word_embedding("cat", ...)``, blend two with ``0.5 * word_embedding("puppy", ...) + 0.5 *
    word_embedding("skunk", ...)``, or use a learned embedding.

    Args:
        text: the prompt.
        word: one of its words.
        vector: [D] a token embedding.
        tokenizer: the text encoder's; or a Pipeline, in the place of both.
        text_encoder: runs on the edited text.

    Raises:
        InputError: the word is not in the text, or the vector has another width.
    """
    tokenizer, text_encoder = text_parts(tokenizer, text_encoder)
    ids = tokenizer.encode(text)
    embeddings = text_encoder.embed(ids.to(text_encoder.token_embedding.weight.device))
    embeddings = replace_embeddings(embeddings, token_positions(word, text, tokenizer), vector, text_encoder)
    return encode_embeddings(embeddings, ids, text_encoder)
