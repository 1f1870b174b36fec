"""Texts to Conditioning."""

from collections.abc import Sequence

import torch

from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.types import Conditioning, Tap


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, text_encoder: TextEncoder, tap: Tap | None = None
) -> Conditioning:
    """What the U-Net is told of each text: ``ids`` [B,T] on the CPU, the rest on the text encoder's device.

    Equal texts are encoded once, so the rows that a tap sees are the different texts, in the order of their first
    appearance.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    ids = tokenizer.encode(list(rows))
    device = text_encoder.token.weight.device
    states = text_encoder(ids.to(device), tap)
    index = torch.tensor([rows[text] for text in texts])
    pooled = None if states.pooled is None else states.pooled[index.to(device)]
    return Conditioning(states.last_hidden_state[index.to(device)], ids[index], pooled)


def what_was_cut(text: str, tokenizer: Tokenizer) -> str | None:
    """One sentence naming the words that do not fit into the text encoder's positions, or None where all fit."""
    lost = tokenizer.cut(text)
    if not lost:
        return None
    room = tokenizer.length - 2
    kept = text.rstrip()[: -len(lost)]
    begun = ", but the beginning of the first" if len(tokenizer.tokenize(kept)) < room else ""
    tokens = len(tokenizer.tokenize(text))
    return f"the prompt has {tokens} tokens and {room} fit; the model does not see these words{begun}: {lost!r}"
