"""Where the words of a prompt stand: each word's token positions among those that the text encoder reads."""

import difflib
from dataclasses import dataclass

from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Place:
    """One word of a prompt."""

    word: str
    """As the tokenizer reads it: lower-cased."""
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Of its tokens; position 0 is the start of text. Shorter than ``ids``, or empty, where the text was cut."""


def places(text: str, tokenizer: Tokenizer) -> list[Place]:
    """The words of ``text`` in order, each with its tokens; punctuation counts as words."""
    found, position = [], 1
    for trace in tokenizer.trace(text):
        after = position + len(trace.ids)
        kept = range(position, min(after, tokenizer.length - 1))
        found.append(Place(trace.word, trace.ids, tuple(kept)))
        position = after
    return found


def unseen(text: str, tokenizer: Tokenizer, table: Tensor) -> tuple[str, ...]:
    """The words of ``text`` with a token whose row in the embeddings ``table`` [V,D] is zero, as none was trained."""
    return tuple(place.word for place in places(text, tokenizer) if bool((table[list(place.ids)] == 0).all(-1).any()))


def positions_of(word: str, text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token positions of ``word`` in ``text``, of every time it comes; several words must stand side by side.

    Raises:
        InputError: the word is not in the text, or stands where the text is cut.
    """
    line = places(text, tokenizer)
    wanted = [trace.word for trace in tokenizer.trace(word)]
    if not wanted:
        raise InputError(f"{word!r} has no token; give a word of the prompt")
    starts = [i for i in range(len(line)) if [place.word for place in line[i : i + len(wanted)]] == wanted]
    if not starts:
        words = list(dict.fromkeys(place.word for place in line))
        near = difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.5) or words[:8]
        raise InputError(f"{word!r} is not in the prompt {text!r}; its words are, the nearest first: {', '.join(near)}")
    found = [place for i in starts for place in line[i : i + len(wanted)]]
    positions = tuple(position for place in found for position in place.positions)
    if not positions:
        raise InputError(
            f"{word!r} stands behind the {tokenizer.length - 2} tokens that fit, so the model never sees it; "
            "put it further to the front"
        )
    return positions
