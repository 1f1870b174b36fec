"""Figures of the networks' inside: byte-pair merges, attention between tokens, similarity of vectors, activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.plotting import COLOURS, SIGNED, WIDTH, axes, check_some, grid, heat_map, lines
from diffuscope.lens.text import NearestToken
from diffuscope.models.tokenizer import END, START, WordTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT, _NEW = "#DDDDDD", "#F0C571"


def merges(trace: WordTrace) -> Figure:
    """One word from its bytes, above, to its tokens, below: one row per merge, with the new piece coloured."""
    rows = [trace.start, *(merge.pieces for merge in trace.merges)]
    figure, (panel,) = axes(1, 1, 0.7 + 0.32 * len(rows))
    before: set[tuple[int, int]] = set()
    for row, pieces in enumerate(rows):
        spans = _spans(pieces)
        for piece, (left, right) in zip(pieces, spans, strict=True):
            colour = _NEW if row and (left, right) not in before else _KEPT
            panel.barh(row, right - left - 0.08, left=left + 0.04, color=colour, height=0.8)
            panel.text((left + right) / 2, row, _letters(piece), ha="center", va="center", fontsize=9)
        before = set(spans)
    panel.set_yticks(range(len(rows)), ["bytes", *(f"merge {merge.rank}" for merge in trace.merges)], fontsize=8)
    panel.invert_yaxis()
    panel.set(title=f"{trace.word!r} becomes {len(trace.ids)} token(s): {list(trace.ids)}", xticks=[])
    for side in panel.spines.values():
        side.set_visible(False)
    return figure


def token_attention(layers: Mapping[str, Tensor], tokens: Sequence[str]) -> Figure:
    """The attention [T,T] between the first tokens in each layer; masked pairs are white.

    Args:
        layers: title -> [T,S] weights of one text, averaged over heads.
        tokens: names of the first tokens; the others are left out.

    Raises:
        InputError: nothing to draw, or fewer weights than tokens.
    """
    check_some("layers", layers)
    check_some("tokens", tokens)
    count = len(tokens)
    for weights in layers.values():
        if weights.ndim != 2 or min(weights.shape) < count:
            raise InputError("layers", weights, f"weights [T,S] of at least {count} tokens")
    figure, panels = axes(1, len(layers), WIDTH / max(len(layers), 2) + 0.9)
    names = [_name(token) for token in tokens]
    for panel, (title, weights) in zip(panels, layers.items(), strict=True):
        shown = weights[:count, :count].float().cpu()
        heat_map(panel, shown.masked_fill(shown == 0, float("nan")).numpy(), bar=False, vmin=0, vmax=1)
        panel.set_xticks(range(count), names, rotation=90, fontsize=8)
        panel.set(title=title, xlabel="key")
    panels[0].set_yticks(range(count), names, fontsize=8)
    panels[0].set_ylabel("query")
    figure.colorbar(panels[-1].images[0], ax=panels, shrink=0.6, label="attention")
    return figure


def state_changes(before: Sequence[Tensor], after: Sequence[Tensor], tokens: Sequence[str]) -> Figure:
    """How far an edit of the embeddings moved each position's state, layer by layer: ``||b - a|| / ||a||``.

    Args:
        before: [1,T,D] states of one text, such as ``TextStates.hidden_states``: the embeddings, then each layer.
        after: the same of the edited text.
        tokens: names of the first positions; the others are left out.

    Raises:
        InputError: nothing to draw, or states of other layers or shapes.
    """
    check_some("before", before)
    check_some("tokens", tokens)
    if [state.shape for state in before] != [state.shape for state in after]:
        raise InputError("after", Unquoted(f"{len(after)} states"), f"{len(before)} of the shapes of before")
    figure, (panel,) = axes(1, 1, 0.9 + 0.3 * len(before))
    rows = [((b - a).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-12))[0] for a, b in zip(before, after, strict=True)]
    shares = [row[: len(tokens)].tolist() for row in rows]
    largest = max(max(values) for values in shares) or 1.0
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            colour = "white" if value < largest / 2 else "black"
            text = f"{value:.2f}" if value else "0"
            panel.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    heat_map(panel, shares, vmin=0, vmax=largest, aspect="auto")
    panel.set_xticks(range(len(tokens)), [_name(token) for token in tokens], fontsize=9)
    panel.set_yticks(range(len(rows)), ["embeddings", *(f"layer {i}" for i in range(1, len(rows)))], fontsize=8)
    panel.set_title("Change of each state, relative to its norm")
    return figure


def cosines(vectors: Tensor, names: Sequence[str] = (), *, title: str = "Cosine similarity") -> Figure:
    """The cosine similarity of each pair of vectors [N,D].

    Args:
        vectors: of words, positions or anything else.
        names: one for each vector, or none.
        title: of the figure.

    Raises:
        InputError: no vectors [N,D], or another number of names.
    """
    if vectors.ndim != 2 or not len(vectors):
        raise InputError("vectors", vectors, "at least one vector, [N,D]")
    if len(names) not in (0, len(vectors)):
        raise InputError("names", Unquoted(f"{len(names)} names"), f"{len(vectors)}, or none")
    directions = F.normalize(vectors.detach().float().cpu(), dim=-1)
    figure, (panel,) = axes(1, 1, 5.0)
    heat_map(panel, (directions @ directions.T).numpy(), ticks=True, cmap=SIGNED, vmin=-1, vmax=1)
    if names:
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        panel.set_yticks(range(len(names)), names, fontsize=8)
    else:
        panel.set(xlabel="position", ylabel="position")
    panel.set_title(title)
    return figure


def nearest_words(nearest: Mapping[str, Sequence[NearestToken]]) -> Figure:
    """The tokens of the vocabulary nearest to some vectors, one panel for each, as bars of cosine similarity."""
    check_some("nearest", nearest)
    count = max(len(tokens) for tokens in nearest.values())
    check_some("nearest", range(count))
    figure, panels = axes(1, len(nearest), 0.8 + 0.24 * count)
    for number, (panel, (name, tokens)) in enumerate(zip(panels, nearest.items(), strict=True)):
        rows = range(len(tokens))
        panel.barh(rows, [token.cosine for token in tokens], color=COLOURS[number % len(COLOURS)])
        panel.set_yticks(rows, [_name(token.token) for token in tokens], fontsize=8)
        panel.invert_yaxis()
        panel.set(title=name, xlabel="cosine similarity", xlim=(0, 1.02))
        panel.grid(alpha=0.3, axis="x")
    return figure


def time_features(times: Sequence[float], features: Tensor) -> Figure:
    """The sinusoidal time embedding: one column ``features`` [N,width] for each of ``times`` [N]."""
    if features.ndim != 2 or len(features) != len(times) or not len(times):
        raise InputError("features", features, f"one row [width] for each of {len(times)} times, at least one")
    figure, (panel,) = axes(1, 1, 3.4)
    heat_map(panel, features.float().cpu().T.numpy(), ticks=True, cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")
    steps = range(0, len(times), max(1, len(times) // 8))
    panel.set_xticks(list(steps), [f"{times[i]:.0f}" for i in steps])
    panel.set(title="Sinusoidal time embedding", xlabel="training time step", ylabel="feature")
    return figure


def activations(values: Mapping[str, Tensor], *, columns: int = 5) -> Figure:
    """The norm over channels of activations [C,h,w], one panel for each, with its own colour scale."""
    check_some("values", values)
    for value in values.values():
        if value.ndim != 3:
            raise InputError("values", value, "activations [C,h,w], such as a Capture's of one row")
    if columns < 1:
        raise InputError("columns", columns, "at least 1")
    figure, panels = grid(len(values), columns)
    for panel, (name, value) in zip(panels, values.items(), strict=True):
        heat_map(panel, value.float().cpu().norm(dim=0).numpy(), bar=False)
        panel.set_title(f"{name}\n{' × '.join(map(str, value.shape))}", fontsize=8)
    return figure


def noise_readings(sigmas: Sequence[float], readings: Mapping[str, Sequence[float]]) -> Figure:
    """Noise levels estimated from latents against the true ones, with the diagonal of equality."""
    check_some("sigmas", sigmas)
    check_some("readings", readings)
    for values in readings.values():
        if len(values) != len(sigmas):
            raise InputError(
                "readings", Unquoted(f"{len(values)} values"), f"one for each of {len(sigmas)} noise levels"
            )
    figure, (panel,) = axes(1, 1, 4.2)
    panel.plot(sigmas, sigmas, color="#888888", linewidth=1, label="equal")
    lines(panel, {name: (sigmas, values) for name, values in readings.items()}, connected=False)
    panel.set(xscale="log", yscale="log", xlabel="true noise level σ", ylabel="estimated noise level σ")
    panel.set_title("Noise level estimated from the latents")
    return figure


def _letters(piece: str) -> str:
    return piece.removesuffix("</w>")


def _name(token: str) -> str:
    """A token as axes show it: "fox" for a whole word, "fo…" for its beginning, "[start]" and "[end]"."""
    if token in (START, END):
        return "[start]" if token == START else "[end]"
    return _letters(token) if token.endswith("</w>") else f"{token}…"


def _spans(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each piece, in letters."""
    spans, left = [], 0
    for piece in pieces:
        spans.append((left, left + len(_letters(piece))))
        left = spans[-1][1]
    return spans
