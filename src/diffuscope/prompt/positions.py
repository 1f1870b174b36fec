"""The token positions of each word of a prompt, as the text encoder reads it."""

from dataclasses import dataclass

from torch import Tensor

from diffuscope.errors import InputError, Unquoted, nearest
from diffuscope.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class WordTokens:
    """One word of a prompt and its tokens."""

    word: str
    """Lower-cased, as the tokenizer reads it."""
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Position 0 is the start of text. Shorter than ``ids``, or empty, where the text was truncated."""


def word_tokens(text: str, tokenizer: Tokenizer) -> list[WordTokens]:
    """The words of ``text`` in order, each with its tokens; punctuation marks count as words."""
    words, position = [], 1
    for trace in tokenizer.trace(text):
        end = position + len(trace.ids)
        words.append(WordTokens(trace.word, trace.ids, tuple(range(position, min(end, tokenizer.length - 1)))))
        position = end
    return words


def untrained_words(text: str, tokenizer: Tokenizer, table: Tensor) -> tuple[str, ...]:
    """The words of ``text`` with a token whose row of the embedding ``table`` [V,D] is zero: it was never trained."""
    words = ((word, [i for i in ids if i < len(table)]) for word, ids in tokenizer.words(text))  # without added tokens
    return tuple(dict.fromkeys(word for word, ids in words if bool((table[ids] == 0).all(-1).any())))


def token_positions(word: str, text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token positions of every occurrence of ``word`` in ``text``.

    Args:
        word: one word of the text, or several that are adjacent there; upper and lower case are equal.
        text: the prompt.
        tokenizer: the text encoder's.

    Raises:
        InputError: the word is not in the text, or only in its truncated part.
    """
    words = word_tokens(text, tokenizer)
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
