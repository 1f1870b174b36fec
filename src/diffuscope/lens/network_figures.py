"""Figures of what the networks hold inside: how a word became tokens, who looks at whom, what an edit changed.

They follow the rules of ``figures``: one function each, returned and neither shown nor stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.lens.plotting import BLUE, GREEN, MAP, ORANGE, PURPLE, SIGNED, WIDTH, axes
from diffuscope.lens.text import NearestToken
from diffuscope.models.tokenizer import END, START, WordTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT, _NEW = "#DDDDDD", "#F0C571"
_BARS = (BLUE, ORANGE, GREEN, PURPLE)


def merges(trace: WordTrace) -> Figure:
    """One word from its bytes, above, to its tokens, below: each row is one merge, the piece that it made coloured."""
    rows = [trace.start, *(merge.pieces for merge in trace.merges)]
    figure, (panel,) = axes(1, 1, 0.7 + 0.32 * len(rows))
    for row, pieces in enumerate(rows):
        left = 0
        before = _spans(rows[row - 1]) if row else _spans(pieces)
        for piece in pieces:
            width = len(_letters(piece))
            new = (left, left + width) not in before
            panel.barh(row, width - 0.08, left=left + 0.04, color=_NEW if new else _KEPT, height=0.8)
            panel.text(left + width / 2, row, _letters(piece), ha="center", va="center", fontsize=9)
            left += width
    ranks = ["bytes", *(f"merge {merge.rank}" for merge in trace.merges)]
    panel.set_yticks(range(len(rows)), ranks, fontsize=8)
    panel.invert_yaxis()
    panel.set(title=f"{trace.word!r} becomes {len(trace.ids)} token(s): {list(trace.ids)}", xticks=[])
    for side in panel.spines.values():
        side.set_visible(False)
    return figure


def token_attention(layers: Mapping[str, Tensor], tokens: Sequence[str]) -> Figure:
    """Who looks at whom: for each layer the attention [T,T] of the first tokens; what is never seen stays white.

    Args:
        layers: title -> [T,S] weights of one text, heads averaged; rows sum to 1.
        tokens: names of the first of them; the others are left out.

    Raises:
        InputError: nothing to draw, or fewer weights than tokens.
    """
    count = len(tokens)
    short = [name for name, weights in layers.items() if weights.ndim != 2 or min(weights.shape) < count]
    if short or not count:
        raise InputError(f"{count} tokens, but {short or 'no layer'} has no [T,T] weights of as many; give one text's")
    figure, drawn = axes(1, len(layers), WIDTH / max(len(layers), 2) + 0.9, some=bool(layers))
    names = [_name(token) for token in tokens]
    for panel, (name, weights) in zip(drawn, layers.items(), strict=True):
        seen = weights[:count, :count].float().cpu()
        shown = panel.imshow(seen.masked_fill(seen == 0, float("nan")).numpy(), cmap=MAP, vmin=0, vmax=1)
        panel.set_xticks(range(count), names, rotation=90, fontsize=8)
        panel.set_yticks([])
        panel.set(title=name, xlabel="is looked at")
    drawn[0].set_yticks(range(count), names, fontsize=8)
    drawn[0].set_ylabel("looks")
    figure.colorbar(shown, ax=drawn, shrink=0.6, label="attention")
    return figure


def state_changes(before: Sequence[Tensor], after: Sequence[Tensor], tokens: Sequence[str]) -> Figure:
    """How far an edit of the embeddings moved the state of each position, layer by layer: ``||b - a|| / ||a||``.

    Args:
        before: [1,T,D] states of one text, such as ``TextStates.hidden_states``: the embeddings, then each layer.
        after: the same of the edited text.
        tokens: names of the first positions; the others are left out.

    Raises:
        InputError: nothing to draw, or states of other layers or shapes.
    """
    if [each.shape for each in before] != [each.shape for each in after]:
        raise InputError("the states before and after differ in layers or shape; give hidden_states of two texts")
    figure, (panel,) = axes(1, 1, 0.9 + 0.3 * len(before), some=bool(before) and bool(tokens))
    rows = [((b - a).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-12))[0] for a, b in zip(before, after, strict=True)]
    shares = [row[: len(tokens)].tolist() for row in rows]
    most = max(max(values) for values in shares) or 1.0
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            colour = "white" if value < most / 2 else "black"
            panel.text(
                column, row, f"{value:.2f}" if value else "0", ha="center", va="center", fontsize=8, color=colour
            )
    shown = panel.imshow(shares, cmap=MAP, vmin=0, vmax=most, aspect="auto")
    panel.set_xticks(range(len(tokens)), [_name(token) for token in tokens], fontsize=9)
    panel.set_yticks(range(len(rows)), ["embeddings", *(f"layer {i}" for i in range(1, len(rows)))], fontsize=8)
    panel.set_title("How far each state moved, as a share of its length")
    figure.colorbar(shown, ax=panel, shrink=0.8)
    return figure


def cosines(vectors: Tensor, names: Sequence[str] = (), *, title: str = "Cosine of the angle") -> Figure:
    """How alike vectors [N,D] are, each with each: the cosine of their angle, from -1 over 0, white, to 1.

    Args:
        vectors: of words, positions or anything else.
        names: one for each; none numbers them.
        title: of the figure.

    Raises:
        InputError: no vectors [N,D], or another number of names.
    """
    if vectors.ndim != 2 or not len(vectors) or len(names) not in (0, len(vectors)):
        raise InputError(
            f"vectors of shape {list(vectors.shape)} and {len(names)} names; give [N,D] and N names, or none"
        )
    directions = F.normalize(vectors.detach().float().cpu(), dim=-1)
    figure, (panel,) = axes(1, 1, 5.0)
    shown = panel.imshow((directions @ directions.T).numpy(), cmap=SIGNED, vmin=-1, vmax=1)
    if names:
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        panel.set_yticks(range(len(names)), names, fontsize=8)
    else:
        panel.set(xlabel="position", ylabel="position")
    panel.set_title(title)
    figure.colorbar(shown, ax=panel, shrink=0.8)
    return figure


def nearest_words(found: Mapping[str, Sequence[NearestToken]]) -> Figure:
    """The vocabulary's nearest words to some vectors, a panel each, the nearest above.

    Raises:
        InputError: nothing to draw.
    """
    most = max((len(nears) for nears in found.values()), default=0)
    figure, drawn = axes(1, max(len(found), 1), 0.8 + 0.24 * most, some=most > 0)
    for number, (panel, (name, nears)) in enumerate(zip(drawn, found.items(), strict=True)):
        places = range(len(nears))
        panel.barh(places, [near.cosine for near in nears], color=_BARS[number % len(_BARS)])
        panel.set_yticks(places, [_name(near.token) for near in nears], fontsize=8)
        panel.invert_yaxis()
        panel.set(title=name, xlabel="cosine", xlim=(0, 1.02))
        panel.grid(alpha=0.3, axis="x")
    return figure


def time_features(times: Sequence[float], features: Tensor) -> Figure:
    """What the U-Net is told of the time: one row of ``features`` [N,width] for each of ``times``, from -1 to 1.

    Raises:
        InputError: not one row for each time.
    """
    if features.ndim != 2 or len(features) != len(times) or not len(times):
        raise InputError(f"{len(times)} times and features {list(features.shape)}; give one row [width] for each time")
    figure, (panel,) = axes(1, 1, 3.4)
    shown = panel.imshow(features.float().cpu().T.numpy(), cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")
    steps = range(0, len(times), max(1, len(times) // 8))
    panel.set_xticks(list(steps), [f"{times[i]:.0f}" for i in steps])
    panel.set(title="The time as waves of many lengths", xlabel="training time step", ylabel="feature")
    figure.colorbar(shown, ax=panel, shrink=0.8)
    return figure


def activations(values: Mapping[str, Tensor], *, columns: int = 5) -> Figure:
    """Inner values [C,h,w], a panel each: how long the vector of channels is at each place, each with its own scale.

    Raises:
        InputError: nothing to draw, or a value of another shape.
    """
    wrong = [name for name, value in values.items() if value.ndim != 3]
    if wrong or columns < 1:
        raise InputError(f"{wrong or columns} cannot be drawn; give values [C,h,w], such as a Capture's of one row")
    columns = min(columns, max(len(values), 1))
    rows = -(-len(values) // columns)
    figure, drawn = axes(rows, columns, rows * (WIDTH / columns + 0.35), some=bool(values))
    for panel, (name, value) in zip(drawn, values.items(), strict=False):
        panel.imshow(value.float().cpu().norm(dim=0).numpy(), cmap=MAP)
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"{name}\n{' × '.join(map(str, value.shape))}", fontsize=8)
    for panel in drawn[len(values) :]:
        panel.remove()
    return figure


def noise_readings(sigmas: Sequence[float], told: Mapping[str, Sequence[float]]) -> Figure:
    """Noise levels that somebody reads off against those that are there, with the diagonal on which both agree.

    Raises:
        InputError: nothing to draw, or not one reading for each level.
    """
    if not sigmas or not told or any(len(each) != len(sigmas) for each in told.values()):
        raise InputError(
            f"{len(sigmas)} levels and readings of {[len(each) for each in told.values()]}; give one for each"
        )
    figure, (panel,) = axes(1, 1, 4.2)
    panel.plot(sigmas, sigmas, color="#888888", linewidth=1, label="what is there")
    for number, (name, each) in enumerate(told.items()):
        panel.plot(sigmas, each, "osD^"[number % 4], color=_BARS[number % len(_BARS)], markersize=5, label=name)
    panel.set(xscale="log", yscale="log", xlabel="noise level σ that is there", ylabel="noise level σ read off")
    panel.set_title("Reading the noise level off the latents")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def _letters(piece: str) -> str:
    return piece.removesuffix("</w>")


def _name(token: str) -> str:
    """A token as axes show it: a word by itself, the beginning of one with dots, start and end in brackets."""
    if token in (START, END):
        return "[start]" if token == START else "[end]"
    return _letters(token) if token.endswith("</w>") else f"{token}…"


def _spans(pieces: Sequence[str]) -> set[tuple[int, int]]:
    """Start and end of each piece, in letters."""
    spans, left = set(), 0
    for piece in pieces:
        right = left + len(_letters(piece))
        spans.add((left, right))
        left = right
    return spans
