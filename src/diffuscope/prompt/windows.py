"""A prompt as windows: rows of token ids, each with start and end of text, and a weight for each token.

``plain`` is one window, and what does not fit is dropped. The others take as many as are needed: ``a1111`` starts a new
one at a comma if one of the last 20 tokens is one, and at ``BREAK``; ``comfyui`` keeps fewer than 8 tokens of one
weight together.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from diffuscope.errors import InputError, Unquoted
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt import a1111, comfyui
from diffuscope.prompt.a1111 import BREAK, Piece
from diffuscope.request import Syntax

MAX_WINDOWS = 64
"""The longest prompt: the U-Net's cross-attention grows with it."""

COMMA = 267
COMMA_REACH = 20
"""The web UI's setting "prompt word wrap length limit"."""

WORD_TOKENS = 8
"""From so many tokens on, ComfyUI breaks a group."""


@dataclass
class Window:
    """The tokens of one window, without start and end of text."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    """For each token the number of its word in ``Layout.words``."""

    def add(self, ids: Iterable[int], weight: float, word: int) -> None:
        """Append the tokens of a word, or some of them."""
        for i in ids:
            self.ids.append(i)
            self.weights.append(weight)
            self.words.append(word)

    def split(self, position: int) -> "Window":
        """Keep the tokens before ``position``, and return a window of the others."""
        rest = Window(self.ids[position:], self.weights[position:], self.words[position:])
        del self.ids[position:], self.weights[position:], self.words[position:]
        return rest

    def row(self, tokenizer: Tokenizer) -> list[int]:
        """The ids of the whole window: start of text, tokens, end of text, padding."""
        line = [tokenizer.start, *self.ids, tokenizer.end]
        return line + [tokenizer.pad] * (tokenizer.length - len(line))

    def factors(self, length: int) -> list[float]:
        """A weight for each token of the whole window; 1 for those that are no word."""
        return [1.0, *self.weights] + [1.0] * (length - 1 - len(self.weights))


@dataclass(frozen=True)
class Layout:
    """A prompt's windows, and its words."""

    windows: tuple[Window, ...]
    words: tuple[tuple[str, tuple[int, ...]], ...]
    """Each word, lower-cased, with its token ids."""

    @property
    def weighted(self) -> bool:
        """Whether any weight is not 1."""
        return any(weight != 1.0 for window in self.windows for weight in window.weights)


def pieces(text: str, syntax: Syntax) -> list[Piece]:
    """The pieces of a text with their weights."""
    if syntax == "a1111":
        return a1111.weighted(text)
    return comfyui.weighted(text) if syntax == "comfyui" else [Piece(text, 1.0)]


def layout(text: str, tokenizer: Tokenizer, syntax: Syntax = "plain") -> Layout:
    """The windows of a text.

    Raises:
        InputError: an impossible weight, or more than 64 windows.
    """
    words: list[tuple[str, tuple[int, ...]]] = []
    groups = [(piece, _numbered(piece, tokenizer, words, syntax)) for piece in pieces(text, syntax)]
    size = tokenizer.length - 2
    if syntax == "a1111":
        windows = _a1111(groups, size, len(tokenizer.tokens))
    elif syntax == "comfyui":
        windows = _comfyui(groups, size, len(tokenizer.tokens))
    else:
        windows = [Window()]
        for word, ids in groups[0][1]:
            windows[0].add(ids, 1.0, word)
        windows[0].split(size)
    if len(windows) > MAX_WINDOWS:
        raise InputError("prompt", Unquoted(f"{len(windows)} windows of {size} tokens"), f"at most {MAX_WINDOWS}")
    return Layout(tuple(windows), tuple(words))


Numbered = list[tuple[int, tuple[int, ...]]]
"""The number of each word, and its token ids."""


def _numbered(piece: Piece, tokenizer: Tokenizer, words: list[tuple[str, tuple[int, ...]]], syntax: Syntax) -> Numbered:
    if syntax == "a1111" and piece == BREAK:
        return []
    text = _named(piece.text, tokenizer) if syntax == "comfyui" else piece.text
    own = tokenizer.words(text)
    first = len(words)
    words += own
    return [(first + k, ids) for k, (_, ids) in enumerate(own)]


_EMBEDDING = re.compile(r"(?<!\S)embedding:(\S+)")


def _named(text: str, tokenizer: Tokenizer) -> str:
    """The text with ``embedding:name`` as ``name``, the word of an embedding that is loaded."""
    known = {word.casefold(): word for word in tokenizer.added_tokens}

    def word(reference: re.Match[str]) -> str:
        name = reference[1].rstrip(",")
        if name.casefold() not in known:
            loaded = ", ".join(map(repr, known.values())) or "there is none"
            raise InputError("prompt", reference[0], f"the word of a loaded embedding: {loaded}")
        return reference[1]

    return _EMBEDDING.sub(word, text)


def _whole(ids: tuple[int, ...], vocabulary: int, size: int) -> Iterator[tuple[int, ...]]:
    """A word's tokens one by one; those of an embedding, beyond the vocabulary, together."""
    if ids and ids[0] >= vocabulary:
        if len(ids) > size:
            raise InputError("prompt", Unquoted(f"an embedding of {len(ids)} vectors"), f"at most {size}")
        yield ids
    else:
        yield from ((i,) for i in ids)


def _a1111(groups: Sequence[tuple[Piece, Numbered]], size: int, vocabulary: int) -> list[Window]:
    windows, window, comma = [], Window(), -1
    for piece, words in groups:
        if piece == BREAK:
            windows.append(window)
            window, comma = Window(), -1
        for word, ids in words:
            for together in _whole(ids, vocabulary, size):
                if together[0] == COMMA:
                    comma = len(window.ids)
                elif len(window.ids) == size and comma >= 0 and size - comma <= COMMA_REACH:
                    rest = window.split(comma + 1)
                    windows.append(window)
                    window, comma = rest, -1
                if len(window.ids) + len(together) > size:
                    windows.append(window)
                    window, comma = Window(), -1
                window.add(together, piece.weight, word)
    return [*windows, window] if window.ids or not windows else windows


def _comfyui(groups: Sequence[tuple[Piece, Numbered]], size: int, vocabulary: int) -> list[Window]:
    windows = [Window()]
    for piece, words in groups:
        for group in _groups(words, vocabulary):
            left = group
            while left:
                room = size - len(windows[-1].ids)
                if len(left) > room and len(group) < WORD_TOKENS and windows[-1].ids:
                    windows.append(Window())
                    continue
                for word, i in left[:room]:
                    windows[-1].add((i,), piece.weight, word)
                left = left[room:]
                if left:
                    windows.append(Window())
    return windows


def _groups(words: Numbered, vocabulary: int) -> Iterator[list[tuple[int, int]]]:
    """The tokens of a piece with the numbers of their words: all in one group, but an embedding in one of its own."""
    group: list[tuple[int, int]] = []
    for word, ids in words:
        own = [(word, i) for i in ids]
        if ids[0] >= vocabulary:
            yield from (group, own)
            group = []
        else:
            group += own
    yield group
