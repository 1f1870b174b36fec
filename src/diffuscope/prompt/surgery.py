"""Token surgery: the text encoder's input, vector by vector, and what the U-Net is told of it.

The encoder is causal: a vector that is changed at one position changes the states from there on and none before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt.places import positions_of
from diffuscope.types import Conditioning, Tap


def vector_of(word: str, tokenizer: Tokenizer, text_encoder: TextEncoder) -> Tensor:
    """[D] the token embedding of a word, without a position; of a word of several tokens their mean.

    Raises:
        InputError: the text has no token.
    """
    ids = tokenizer.tokenize(word)
    if not ids:
        raise InputError(f"{word!r} has no token; give a word")
    return text_encoder.vectors(torch.tensor(ids, device=text_encoder.token.weight.device)).detach().mean(0)


def put(embeddings: Tensor, positions: Sequence[int], vector: Tensor, text_encoder: TextEncoder) -> Tensor:
    """[B,T,D] embeddings with ``vector`` in the place of the tokens at ``positions``; their positions stay.

    Args:
        embeddings: [B,T,D] token plus position embeddings, as ``text_encoder.embed`` makes them. Not modified.
        positions: 0 is the start of text.
        vector: [D] a token embedding: a word's, a blend of several, or a learned one.
        text_encoder: gives the position embeddings.

    Raises:
        InputError: a position that is not there, or a vector of another width.
    """
    length, width = embeddings.shape[1:]
    wrong = [position for position in positions if not 0 <= position < length]
    if wrong:
        raise InputError(f"position {wrong[0]} does not exist; positions go from 0 to {length - 1}")
    if vector.shape != (width,):
        raise InputError(f"the vector has shape {list(vector.shape)}; this text encoder's token vectors are [{width}]")
    changed, index = embeddings.clone(), list(positions)
    changed[:, index] = vector.to(embeddings) + text_encoder.position.weight[index].to(embeddings)
    return changed


@torch.no_grad()
def read_vectors(
    embeddings: Tensor, ids: Tensor, text_encoder: TextEncoder, tap: Tap | None = None, *, skip: int = 0
) -> Conditioning:
    """What the U-Net is told of edited ``embeddings`` [B,T,D]; ``ids`` [B,T] say where each text ends."""
    device = text_encoder.token.weight.device
    states = text_encoder.encode(embeddings.to(device), ids.to(device), tap)
    return Conditioning(text_encoder.read(states, skip), ids, states.pooled)


@torch.no_grad()
def with_vector(text: str, word: str, vector: Tensor, tokenizer: Tokenizer, text_encoder: TextEncoder) -> Conditioning:
    """What the U-Net is told of ``text`` in which ``vector`` [D] stands in the place of each token of ``word``.

    Swap: ``vector_of("cat", ...)``; blend: ``0.5 * vector_of("puppy", ...) + 0.5 * vector_of("skunk", ...)``; a
    learned word: its vector.

    Raises:
        InputError: the word is not in the text, or the vector has another width.
    """
    ids = tokenizer.encode(text)
    embeddings = text_encoder.embed(ids.to(text_encoder.token.weight.device))
    embeddings = put(embeddings, positions_of(word, text, tokenizer), vector, text_encoder)
    return read_vectors(embeddings, ids, text_encoder)
