"""The token positions of each word of a prompt, as the text encoder reads it."""

from collections.abc import Set
from dataclasses import dataclass

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from diffuscope.errors import InputError, Unquoted, nearest
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt.windows import layout
from diffuscope.request import Syntax


@dataclass(frozen=True, slots=True)
class WordTokens:
    """One word of a prompt and its tokens."""

    word: str
    """Lower-cased, as the tokenizer reads it."""
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Position 0 is the start of text. Shorter than ``ids``, or empty, where the text was truncated."""


def word_tokens(text: str, tokenizer: Tokenizer, syntax: Syntax = "plain") -> list[WordTokens]:
    """The words of ``text`` in order, each with its tokens; punctuation marks count as words.

    In another syntax than "plain" brackets and weights are no words, and positions go on in the next window of 77.
    """
    laid = layout(text, tokenizer, syntax)
    positions: list[list[int]] = [[] for _ in laid.words]
    for number, window in enumerate(laid.windows):
        for offset, word in enumerate(window.words):
            positions[word].append(number * tokenizer.length + 1 + offset)
    return [WordTokens(word, ids, tuple(own)) for (word, ids), own in zip(laid.words, positions, strict=True)]


def untrained_words(
    text: str, tokenizer: Tokenizer, table: Tensor, syntax: Syntax = "plain", learned: Set[str] = frozenset()
) -> tuple[str, ...]:
    """The words of ``text`` that no training caption had, as far as the model tells.

    Those with a token whose row of the embedding ``table`` [V,D] is zero; and if the words of the captions are known
    (``learned``), all others too, since pieces of a word may be trained where it is not. Marks count by rows.
    """
    words = tokenizer.words(text) if syntax == "plain" else layout(text, tokenizer, syntax).words
    own = [(word, [i for i in ids if i < len(table)]) for word, ids in words]  # without added tokens
    zero = _zero_rows(table)
    return tuple(
        dict.fromkeys(
            word
            for word, ids in own
            if not zero.isdisjoint(ids) or (learned and ids and word not in learned and any(map(str.isalnum, word)))
        )
    )


def token_positions(word: str, text: str, tokenizer: Tokenizer, syntax: Syntax = "plain") -> tuple[int, ...]:
    """The token positions of every occurrence of ``word`` in ``text``.

    Args:
        word: one word of the text, or several that are adjacent there; upper and lower case are equal.
        text: the prompt.
        tokenizer: the text encoder's.
        syntax: of the prompt.

    Raises:
        InputError: the word is not in the text, or only in its truncated part.
    """
    words = word_tokens(text, tokenizer, syntax)
    wanted = [trace.word for trace in tokenizer.trace(word)]
    starts = [i for i in range(len(words)) if [word.word for word in words[i : i + len(wanted)]] == wanted]
    if not wanted or not starts:
        hint = nearest(word.lower(), (word.word for word in words))
        raise InputError("word", word, f"a word of the prompt {text!r}", hint)
    matches = [match for i in starts for match in words[i : i + len(wanted)]]
    positions = tuple(position for match in matches for position in match.positions)
    if not positions:
        got = Unquoted(f"{word!r}, which is truncated")
        raise InputError("word", got, f"a word among the first {tokenizer.length - 2} tokens", "Move it to the front.")
    return positions


_zero: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _zero_rows(table: Tensor) -> Set[int]:
    """The numbers of the rows that are zero, looked for once: the host has to wait for the device."""
    known = _zero.get(table)
    if known is None or known[0] != table._version:
        known = _zero[table] = table._version, frozenset((table == 0).all(-1).nonzero().flatten().tolist())
    return known[1]
