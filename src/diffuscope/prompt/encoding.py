"""From texts to Conditioning."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted, shown
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt.windows import Layout, Window, layout
from diffuscope.request import Syntax
from diffuscope.types import Conditioning, Tap, sent

MAX_SCALE = 10.0
"""Weights of a word from 0.1 on keep well below this in models whose states have a mean."""
ROUNDING = 1e-6
"""Part of the states' size at which their mean is rounding, whose sign is chance."""

Tower = tuple[Tokenizer, TextEncoder]

Run = Callable[[TextEncoder, Tensor, Tap | None, int], tuple[Tensor, Tensor | None]]
"""(text encoder, ids [B,T], tap, layers to skip) -> the states [B,T,D] that the U-Net reads, and the pooled text."""


def plain(text_encoder: TextEncoder, ids: Tensor, tap: Tap | None, skip: int) -> tuple[Tensor, Tensor | None]:
    """A ``Run`` of the network itself."""
    output = text_encoder(ids, tap)
    return text_encoder.read(output, skip), output.pooled


def encode(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    tap: Tap | None = None,
    *,
    skip: int = 0,
    syntax: Syntax = "plain",
) -> Conditioning:
    """One row for each text: ``ids`` [B,T] on the CPU, the rest on the text encoder's device.

    Equal texts are encoded once, so a tap sees one row for each different text, in order of first appearance; of a
    text of several windows one for each of them.

    Args:
        texts: one row each.
        tokenizer: the text encoder's.
        text_encoder: its config says which layer's states are used.
        tap: reads or replaces activations.
        skip: how many layers earlier the states are taken.
        syntax: how brackets and long texts are read.

    Raises:
        InputError: an impossible weight, or texts of different numbers of windows.
    """
    return encode_all(texts, [(tokenizer, text_encoder)], tap, skip=skip, syntax=syntax)


def encode_all(
    texts: Sequence[str], towers: Sequence[Tower], tap: Tap | None = None, *, skip: int = 0, syntax: Syntax = "plain"
) -> Conditioning:
    """``encode`` by each text encoder: states concatenated [B,T,D], the first one's ids, the last one's pooled text.

    As in SDXL (Podell et al. 2023, section 2.1).
    """
    rows = encode_groups([[text] for text in texts], towers, tap, skip=skip, syntax=syntax)
    lengths = [row.embeddings.shape[1] // towers[0][0].length for row in rows]
    if len({*lengths}) > 1:
        raise InputError("prompt", Unquoted(f"texts of {lengths} windows"), "texts of one length", "Encode each alone.")
    return rows_of(rows)


def rows_of(texts: Sequence[Conditioning]) -> Conditioning:
    """The rows of several texts of one length in one Conditioning."""
    if len(texts) == 1:
        return texts[0]
    ids = [text.ids for text in texts if text.ids is not None]
    pools = [text.pooled for text in texts if text.pooled is not None]
    return Conditioning(
        torch.cat([text.embeddings for text in texts]),
        torch.cat(ids) if len(ids) == len(texts) else None,
        torch.cat(pools) if pools else None,
    )


def encode_groups(
    groups: Sequence[Sequence[str]],
    towers: Sequence[Tower],
    tap: Tap | None = None,
    *,
    skip: int = 0,
    syntax: Syntax = "plain",
    run: Run = plain,
) -> list[Conditioning]:
    """The texts of each group as the rows of one Conditioning; ``run`` is how a text encoder runs.

    The web UI encodes the texts of one prompt together (``a1111``): all get as many windows as the longest, and the
    mean that weighting keeps is that of all of them.
    """
    each = [_encode_groups(groups, *tower, tap, skip, syntax, run) for tower in towers]
    if len(each) == 1:
        return each[0]
    return [
        Conditioning(torch.cat([row.embeddings for row in rows], dim=-1), rows[0].ids, rows[-1].pooled)
        for rows in zip(*each, strict=True)
    ]


def _encode_groups(
    groups: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    tap: Tap | None,
    skip: int,
    syntax: Syntax,
    run: Run,
) -> list[Conditioning]:
    """``encode_groups`` by one text encoder: one call of it, with a row for each window of each different text."""
    texts = dict.fromkeys(text for group in groups for text in group)
    layouts = {text: layout(text, tokenizer, syntax) for text in texts}
    first: dict[str, int] = {}
    windows: list[Window] = []
    for text, laid in layouts.items():
        first[text] = len(windows)
        windows += laid.windows
    longest = [max(len(layouts[text].windows) for text in group) for group in groups]
    pads = any(len(layouts[text].windows) < most for group, most in zip(groups, longest, strict=True) for text in group)
    if pads or (syntax == "comfyui" and any(laid.weighted for laid in layouts.values())):
        windows.append(Window())  # the last row
    ids = torch.tensor([window.row(tokenizer) for window in windows], dtype=torch.int64)
    device = text_encoder.token_embedding.weight.device
    states, last = run(text_encoder, sent(ids, device), tap, skip)

    def of(group: Sequence[str], most: int) -> Conditioning:
        rows = [[first[text] + k if k < len(layouts[text].windows) else -1 for k in range(most)] for text in group]
        index = torch.tensor(rows)
        own = states[sent(index, device)]  # [texts, windows, T, D]
        if any(layouts[text].weighted for text in group):
            factors = torch.stack([_factors(layouts[text], most, tokenizer.length) for text in group]).to(own)
            own = _to_mean(own, factors) if syntax == "a1111" else _from_empty(own, factors, states[-1])
        pooled = None if last is None else last[sent(index[:, 0], device)]
        return Conditioning(own.flatten(1, 2), ids[index].flatten(1), pooled)

    return [of(group, most) for group, most in zip(groups, longest, strict=True)]


def _factors(laid: Layout, most: int, length: int) -> Tensor:
    """[most,length,1] the weight of each token."""
    weights = [window.factors(length) for window in laid.windows]
    return torch.tensor(weights + [[1.0] * length] * (most - len(weights)))[..., None]


def _to_mean(states: Tensor, factors: Tensor) -> Tensor:
    """[B,W,T,D] states times their weights, with the mean of each window, over all texts, kept: the web UI's rule.

    Raises:
        InputError: the states' mean is so near 0 that keeping it would turn or blow up all of them.
    """
    weighted = states * factors
    mean, after, size = (each.mean((0, 2, 3), keepdim=True) for each in (states, weighted, states.abs()))
    scale = mean / after
    if not bool(((scale > 0) & (scale <= MAX_SCALE) & (mean.abs() > ROUNDING * size)).all()):
        hint = "These weights change the mean of the text states too much; use others, or comfyui, which keeps no mean"
        raise InputError("prompt_syntax", "a1111", "plain or comfyui", hint)
    return weighted * scale


def _from_empty(states: Tensor, factors: Tensor, empty: Tensor) -> Tensor:
    """[B,W,T,D] states moved away from those of an empty text [T,D], or towards them, by weights: ComfyUI's rule."""
    return torch.where(factors == 1, states, (states - empty) * factors + empty)


def truncation_notice(text: str, tokenizer: Tokenizer, name: str = "the prompt") -> str | None:
    """A sentence with the words beyond the text encoder's positions, for the text called ``name``; None if all fit."""
    lost = tokenizer.cut(text)
    if not lost:
        return None
    limit = tokenizer.length - 2
    kept = text.rstrip()[: -len(lost)]
    partly = ", but the beginning of the first" if len(tokenizer.tokenize(kept)) < limit else ""
    count = len(tokenizer.tokenize(text))
    return f"{name} has {count} tokens and {limit} fit; the model does not see these words{partly}: {shown(lost)}"
