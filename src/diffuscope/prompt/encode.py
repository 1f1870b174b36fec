"""Texts to Conditioning."""

from collections.abc import Sequence

import torch

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.types import Conditioning, Tap

Tower = tuple[Tokenizer, TextEncoder]


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder, tap: Tap | None = None, *, skip: int = 0
) -> Conditioning:
    """What the U-Net is told of each text: ``ids`` [B,T] on the CPU, the rest on the text encoder's device.

    Equal texts are encoded once, so the rows that a tap sees are the different texts, in the order of their first
    appearance.

    Args:
        texts: one row each.
        tokenizer: the text encoder's.
        text_encoder: its states are taken where its config says.
        tap: reads or replaces inner values.
        skip: how many layers earlier they are taken.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    ids = tokenizer.encode(list(rows))
    device = text_encoder.token.weight.device
    states = text_encoder(ids.to(device), tap)
    index = torch.tensor([rows[text] for text in texts])
    pooled = None if states.pooled is None else states.pooled[index.to(device)]
    return Conditioning(text_encoder.read(states, skip)[index.to(device)], ids[index], pooled)


def encode_in_all(
    texts: Sequence[str], towers: Sequence[Tower], tap: Tap | None = None, *, skip: int = 0
) -> Conditioning:
    """``encode`` by each text encoder: their states side by side [B,T,D], the first one's ids, the last one's pooled.

    As SDXL has it: Podell et al. 2023, section 2.1.
    """
    told = [encode(texts, tokenizer, text_encoder, tap, skip=skip) for tokenizer, text_encoder in towers]
    if len(told) == 1:
        return told[0]
    return Conditioning(torch.cat([each.embeddings for each in told], dim=-1), told[0].ids, told[-1].pooled)


def what_was_cut(text: str, tokenizer: Tokenizer, name: str = "the prompt") -> str | None:
    """One sentence naming the words that do not fit into the text encoder's positions, or None where all fit.

    Args:
        text: what is read.
        tokenizer: the text encoder's.
        name: what the sentence calls the text.
    """
    lost = tokenizer.cut(text)
    if not lost:
        return None
    room = tokenizer.length - 2
    kept = text.rstrip()[: -len(lost)]
    begun = ", but the beginning of the first" if len(tokenizer.tokenize(kept)) < room else ""
    tokens = len(tokenizer.tokenize(text))
    return f"{name} has {tokens} tokens and {room} fit; the model does not see these words{begun}: {lost!r}"
