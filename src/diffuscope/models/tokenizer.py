"""CLIP's tokenizer: byte-pair encoding of lower-cased text (Sennrich et al. 2016; Radford et al. 2021).

Text is normalised (NFC), lower-cased and split into words: runs of letters, single digits, runs of other characters,
and the English contractions. A word starts as its UTF-8 bytes, the last of them marked ``</w>``; then the adjacent pair
of lowest rank in the table of merges becomes one piece, again and again.

Ids: 0-255 bytes, 256-511 bytes that end a word, 512-49405 merges in order of rank, then start and end of text.
"""

import copy
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path

import regex
import torch
from torch import Tensor

from diffuscope.errors import InputError, ModelNotFoundError, Unquoted, WeightsError
from diffuscope.models.added_words import AddedWord, AddedWords, fold, names_of

MERGES = 48894
START = "<|startoftext|>"
END = "<|endoftext|>"

_CHUNK = regex.compile(r"\S+")
_SPECIAL = regex.compile(r"(<\|startoftext\|>|<\|endoftext\|>)")
_WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
_FILE_LIMIT = 1 << 24  # bytes read of a table of merges, packed and unpacked; CLIP's has 3 million
_CACHED = 1 << 20  # characters of chunks whose tokens are kept


@dataclass(frozen=True, slots=True)
class Merge:
    """One step of byte-pair encoding: all occurrences of a pair in the word are merged."""

    rank: int
    """Line in the table of merges; the lowest is merged first."""
    pair: tuple[str, str]
    pieces: tuple[str, ...]
    """The whole word after this merge."""


@dataclass(frozen=True, slots=True)
class WordTrace:
    """How one word became tokens."""

    word: str
    """Lower-cased."""
    start: tuple[str, ...]
    """One piece per UTF-8 byte."""
    merges: tuple[Merge, ...]
    ids: tuple[int, ...]

    @property
    def pieces(self) -> tuple[str, ...]:
        """The tokens as text, ``</w>`` at the end of the word."""
        return self.merges[-1].pieces if self.merges else self.start


@dataclass(frozen=True, slots=True)
class _Table:
    """A vocabulary. It is immutable, so all tokenizers with the same merges share it."""

    tokens: tuple[str, ...]
    """By id."""
    merged: Mapping[tuple[int, int], int]
    """Ids of a pair -> id of the merged token, in order of rank."""

    def __deepcopy__(self, memo: object) -> "_Table":
        return self


class Tokenizer:
    """Text to token ids and back.

    Args:
        path: a table of merges, one pair per line after a header line, plain or gzipped (CLIP's own file, or the
            ``merges.txt`` of a diffusers folder). None is CLIP's, which is part of the package.
        length: ids per text, start and end of text included; at least 2.
        pad: id after the end of text: 49407 in Stable Diffusion 1, 0 in 2.
        vocabulary: how many ids the model has; 49408 or more.

    Raises:
        ModelNotFoundError: there is no file at ``path``.
        WeightsError: the file is not a table of 48,894 merges.
        InputError: ``length`` is below 2.
    """

    def __init__(
        self, path: str | Path | None = None, *, length: int = 77, pad: int = 49407, vocabulary: int = 0
    ) -> None:
        if length < 2:
            raise InputError("length", length, "at least 2, for start and end of text")
        self.length = length
        self.pad = pad
        self._table = _clips_table() if path is None else _read_table(Path(path))
        self.start, self.end = len(self.tokens) - 2, len(self.tokens) - 1
        self._byte_ids = {byte: i for i, byte in enumerate(_BYTES)}
        self._cache: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        self._cached = 0  # characters
        self._first = max(len(self.tokens), vocabulary)
        self.own_words: tuple[AddedWord, ...] = ()
        """Words that belong to the model, with ids of its vocabulary; set by ``set_own_words``."""
        self.set_added_tokens({})

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token of the vocabulary by its id, ``</w>`` at the end of a word; added tokens follow these."""
        return self._table.tokens

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The table of merges in order of rank, as a ``merges.txt`` lists them."""
        return [(self.tokens[first], self.tokens[second]) for first, second in self._table.merged]

    def set_own_words(self, words: Iterable[AddedWord]) -> None:
        """Replace the model's own words; no others are added then."""
        self.own_words = tuple(words)
        self.set_added_tokens({})

    def set_added_tokens(self, counts: Mapping[str, int]) -> None:
        """Replace the added tokens by these words, each with its number of ids; ``added_tokens`` then has the ids.

        Ids are counted from the model's vocabulary on, 49408 if it is CLIP's. Words are matched without regard to case,
        and only as whole words: no letter, digit or underscore may touch one of theirs. They go before words of the
        model's own.

        Raises:
            InputError: a word is empty, contains white space, or differs from another only in case.
        """
        added: dict[str, AddedWord] = {}
        first = self._first
        for word, count in counts.items():
            if _CHUNK.fullmatch(word) is None:
                raise InputError("word", word, "a word without white space")
            if fold(word) in added:
                raise InputError("word", word, "a word that differs from the others in more than case")
            added[fold(word)] = AddedWord(word, tuple(range(first, first + count)))
            first += count
        words = (*self.own_words, *added.values())
        self.added_tokens: dict[str, tuple[int, ...]] = {each.word: each.ids for each in words}
        self._added = AddedWords(words)
        self._cache.clear()

    def with_added_tokens(self, counts: Mapping[str, int]) -> "Tokenizer":
        """Another tokenizer of the same vocabulary, with these added tokens; see ``set_added_tokens``."""
        other = copy.copy(self)
        other._cache, other._cached = {}, 0
        other.set_added_tokens(counts)
        return other

    def encode(self, text: str | Sequence[str]) -> Tensor:
        """Ids of one text or several: start, tokens, end, padding; tokens that do not fit are dropped (see ``cut``).

        Returns:
            [B,length] int64, one row per text; one text is a batch of 1.
        """
        texts = [text] if isinstance(text, str) else list(text)
        ids = torch.full((len(texts), self.length), self.pad, dtype=torch.int64)
        for row, one in zip(ids, texts, strict=True):
            line = [self.start, *self.tokenize(one)[: self.length - 2], self.end]
            row[: len(line)] = torch.tensor(line)
        return ids

    def tokenize(self, text: str) -> list[int]:
        """All token ids of a text, without start, end, padding and truncation. No token crosses white space.

        Raises:
            InputError: the text has an unpaired surrogate.
        """
        return [token for chunk in _CHUNK.findall(text) for token in self._chunk_ids(chunk)]

    def words(self, text: str) -> list[tuple[str, tuple[int, ...]]]:
        """The words of a text in order, lower-cased, each with its token ids; punctuation marks count as words."""
        return [word for chunk in _CHUNK.findall(text) for word in self._chunk_words(chunk)]

    def cut(self, text: str) -> str:
        """The end of ``text`` that ``encode`` drops, from the first word that is not kept whole; "" if all fits."""
        used = 0
        for chunk in _CHUNK.finditer(text):
            used += len(self._chunk_ids(chunk[0]))
            if used > self.length - 2:
                return text[chunk.start() :].rstrip()
        return ""

    def decode(self, ids: Tensor | Iterable[int]) -> list[str]:
        """One string per id, ``</w>`` at the end of a word, each byte beyond ASCII as its letter in the table.

        Args:
            ids: [T], or one row [1,T] as ``encode`` returns it.

        Raises:
            InputError: several rows at once, or an id outside the vocabulary.
        """
        if isinstance(ids, Tensor):
            if ids.dim() > 1 and ids.numel() != ids.shape[-1]:
                raise InputError("ids", ids, "one row, such as ids[0]")
            ids = ids.flatten().tolist()
        ids = [int(i) for i in ids]
        words = sorted(self.added_tokens.items(), key=lambda item: len(item[1]))  # of several names the word's own
        added = {
            i: name for word, own in reversed(words) for i, name in zip(own, names_of(word, len(own)), strict=True)
        }
        wrong = [i for i in ids if not 0 <= i < len(self.tokens) and i not in added]
        if wrong:
            raise InputError("ids", wrong[0], f"ids from 0 to {max(len(self.tokens) - 1, *added, 0)}")
        return [self.tokens[i] if i < len(self.tokens) else added[i] for i in ids]

    def trace(self, text: str) -> list[WordTrace]:
        """Every word of a text with the merges that made its tokens, one by one."""
        return [self._trace(word) for chunk in _CHUNK.findall(text) for word in self._pieces(chunk)]

    def _trace(self, word: str | AddedWord) -> WordTrace:
        if isinstance(word, AddedWord):
            return WordTrace(word.word, names_of(word.word, len(word.ids)), (), word.ids)
        # Byte-pair encoding as in the paper; ``_merge`` is its fast twin.
        merged = self._table.merged
        ids = self._first_pieces(word)
        start, merges = tuple(self.tokens[i] for i in ids), []
        while known := [pair for pair in pairwise(ids) if pair in merged]:
            pair = min(known, key=merged.__getitem__)
            joined: list[int] = []
            for i in ids:
                if joined and (joined[-1], i) == pair:
                    joined[-1] = merged[pair]
                else:
                    joined.append(i)
            ids = joined
            names = (self.tokens[pair[0]], self.tokens[pair[1]])
            merges.append(Merge(merged[pair] - 512, names, tuple(self.tokens[i] for i in ids)))
        return WordTrace(word, start, tuple(merges), tuple(ids))

    def _chunk_ids(self, chunk: str) -> tuple[int, ...]:
        return tuple(i for _, ids in self._chunk_words(chunk) for i in ids)

    def _chunk_words(self, chunk: str) -> list[tuple[str, tuple[int, ...]]]:
        """The words of a chunk, each with its ids; a call asks several times."""
        known = self._cache.get(chunk)
        if known is None:
            pieces = self._pieces(chunk)
            known = [(word.word if isinstance(word, AddedWord) else word, tuple(self._ids(word))) for word in pieces]
            self._cached += len(chunk)
            if self._cached > _CACHED:
                self._cache.clear()
                self._cached = len(chunk)
            self._cache[chunk] = known
        return known

    def _pieces(self, chunk: str) -> Iterator[str | AddedWord]:
        """The words of a chunk, which has no white space."""
        for part in self._added.split(chunk):
            if isinstance(part, AddedWord):
                yield part
            else:
                yield from _words(part)

    def _ids(self, word: str | AddedWord) -> Iterable[int]:
        if isinstance(word, AddedWord):
            return word.ids
        if len(word) == 1 and word.isascii():
            return (self._byte_ids[ord(word)] + 256,)
        return self._merge(self._first_pieces(word))

    def _first_pieces(self, word: str) -> list[int]:
        if word in (START, END):
            return [self.start if word == START else self.end]
        try:
            ids = [self._byte_ids[byte] for byte in word.encode()]
        except UnicodeEncodeError as error:
            code = f"U+{ord(word[error.start]):04X}"
            raise InputError("text", Unquoted(f"{code}, an unpaired surrogate"), "valid Unicode") from None
        ids[-1] += 256
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Byte-pair encoding in n log n: a heap of possible merges over a linked list of pieces."""
        merged = self._table.merged
        n = len(ids)
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))
        heap = [(merged[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merged]
        heapify(heap)
        while heap:
            token, left = heappop(heap)
            right = after[left]
            if right == n or merged.get((ids[left], ids[right])) != token:
                continue  # one of the two has merged with another since
            ids[left], ids[right] = token, -1
            after[left] = after[right]
            if after[left] < n:
                before[after[left]] = left
            for i, j in ((before[left], left), (left, after[left])):
                if i >= 0 and j < n and (ids[i], ids[j]) in merged:
                    heappush(heap, (merged[ids[i], ids[j]], i))
        return [i for i in ids if i >= 0]


def _byte_letters() -> dict[int, str]:
    """Each byte and its letter in the table of merges, in the order of the ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTES = _byte_letters()


def _words(chunk: str) -> Iterator[str]:
    """The words of a chunk, which has no white space."""
    for i, part in enumerate(_SPECIAL.split(chunk)):
        if i % 2:  # the pattern's group: start or end of text, spelled out
            yield part
        else:
            yield from _WORD.findall(fold(part))


@lru_cache(maxsize=1)
def _clips_table() -> _Table:
    return _read_table(files("diffuscope") / "assets" / "bpe_simple_vocab_16e6.txt.gz")


def _read_table(source: Traversable) -> _Table:
    if not source.is_file():
        raise ModelNotFoundError(f"no vocabulary at {source}: pass a table of merges (merges.txt), or None for CLIP's")
    try:
        with source.open("rb") as file:
            data = file.read(_FILE_LIMIT)
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(_FILE_LIMIT)
        text = data.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise WeightsError(f"{source} cannot be read as a table of merges ({error}): download it again") from error
    try:
        return _table("\n".join(text.split("\n", MERGES + 1)[1 : MERGES + 1]))
    except ValueError as error:
        raise WeightsError(f"{source} is not a CLIP vocabulary: {error}") from None


@lru_cache(maxsize=2)
def _table(lines: str) -> _Table:
    """The vocabulary of these merges, one pair per line; shared by all tokenizers that have them."""
    pairs = [tuple(line.split()) for line in lines.split("\n")]
    if len(pairs) != MERGES or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"expected {MERGES} pairs, one per line after a header")
    tokens = [*_BYTES.values(), *(f"{letter}</w>" for letter in _BYTES.values())]
    ids = {token: i for i, token in enumerate(tokens)}
    merged: dict[tuple[int, int], int] = {}
    for first, second in pairs:
        token = len(tokens)
        try:
            merged[ids[first], ids[second]] = token
        except KeyError as missing:
            raise ValueError(f"merge {token - 512} uses {missing}, which no earlier merge makes") from None
        ids[first + second] = token
        tokens.append(first + second)
    return _Table((*tokens, START, END), merged)
