"""From texts to Conditioning."""

from collections.abc import Sequence

import torch

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.types import Conditioning, Tap

Tower = tuple[Tokenizer, TextEncoder]


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder, tap: Tap | None = None, *, skip: int = 0
) -> Conditioning:
    """One row for each text: ``ids`` [B,T] on the CPU, the rest on the text encoder's device.

    Equal texts are encoded once, so a tap sees one row for each different text, in order of first appearance.

    Args:
        texts: one row each.
        tokenizer: the text encoder's.
        text_encoder: its config says which layer's states are used.
        tap: reads or replaces activations.
        skip: how many layers earlier the states are taken.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    ids = tokenizer.encode(list(rows))
    device = text_encoder.token_embedding.weight.device
    states = text_encoder(ids.to(device), tap)
    index = torch.tensor([rows[text] for text in texts])
    pooled = None if states.pooled is None else states.pooled[index.to(device)]
    return Conditioning(text_encoder.read(states, skip)[index.to(device)], ids[index], pooled)


def encode_all(texts: Sequence[str], towers: Sequence[Tower], tap: Tap | None = None, *, skip: int = 0) -> Conditioning:
    """``encode`` by each text encoder: states concatenated [B,T,D], the first one's ids, the last one's pooled text.

    As in SDXL (Podell et al. 2023, section 2.1).
    """
    encoded = [encode(texts, tokenizer, text_encoder, tap, skip=skip) for tokenizer, text_encoder in towers]
    if len(encoded) == 1:
        return encoded[0]
    states = torch.cat([conditioning.embeddings for conditioning in encoded], dim=-1)
    return Conditioning(states, encoded[0].ids, encoded[-1].pooled)


def truncation_notice(text: str, tokenizer: Tokenizer, name: str = "the prompt") -> str | None:
    """A sentence with the words beyond the text encoder's positions, for the text called ``name``; None if all fit."""
    lost = tokenizer.cut(text)
    if not lost:
        return None
    limit = tokenizer.length - 2
    kept = text.rstrip()[: -len(lost)]
    partly = ", but the beginning of the first" if len(tokenizer.tokenize(kept)) < limit else ""
    count = len(tokenizer.tokenize(text))
    return f"{name} has {count} tokens and {limit} fit; the model does not see these words{partly}: {lost!r}"
