"""Words with token ids of their own, found in a text before it is cut into pieces."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import regex


@dataclass(frozen=True, slots=True)
class AddedWord:
    """A word and its ids."""

    word: str
    ids: tuple[int, ...]
    whole: bool = True
    """Only where no letter, digit or underscore touches one of its own."""
    any_case: bool = True


class AddedWords:
    """Finds added words; of several that begin at one place the longest."""

    def __init__(self, words: Iterable[AddedWord] = ()) -> None:
        """A later word replaces an earlier one that differs in case alone."""
        exact = {each.word: each for each in words if not each.any_case}
        folded = {fold(each.word): replace(each, word=fold(each.word)) for each in words if each.any_case}
        self._exact, self._folded = exact, folded
        self._patterns = _pattern(exact), _pattern(folded)

    def split(self, chunk: str) -> Iterator[str | AddedWord]:
        """The added words of a text without white space, and what stands between them."""
        exact, folded = self._patterns
        for i, part in enumerate([chunk] if exact is None else exact.split(chunk)):
            if i % 2:  # the pattern's group: an added word
                yield self._exact[part]
            elif folded is None or folded.search(fold(part)) is None:
                yield part
            else:
                for k, piece in enumerate(folded.split(fold(part))):
                    yield self._folded[piece] if k % 2 else piece


def fold(text: str) -> str:
    """Normalised and lower-cased; capital sigma separately, as Python lower-cases it by its position in the word."""
    return unicodedata.normalize("NFC", text).replace("Σ", "σ").lower()


def names_of(word: str, count: int) -> tuple[str, ...]:
    """The names of an added word's ids: ``word``, ``word_1``, ``word_2`` and so on."""
    return (word, *(f"{word}_{i}" for i in range(1, count)))


def _pattern(words: dict[str, AddedWord]) -> regex.Pattern[str] | None:
    if not words:
        return None
    longest = sorted(words, key=len, reverse=True)
    return regex.compile(f"({'|'.join(map(_one, (words[word] for word in longest)))})")


def _one(word: AddedWord) -> str:
    """The pattern of a word."""
    before = r"(?<!\w)" if word.whole and regex.match(r"\w", word.word[0]) else ""
    after = r"(?!\w)" if word.whole and regex.match(r"\w", word.word[-1]) else ""
    return before + regex.escape(word.word) + after
