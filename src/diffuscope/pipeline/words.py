"""Words with vectors of their own: which are loaded, and the tokenizers and text encoders that know them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import torch

from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.weights.adapter import textual_inversion
from diffuscope.weights.adapter.textual_inversion import Embedding


@dataclass(frozen=True, kw_only=True)
class EmbeddingReport:
    """What came of loading an embedding. ``str()`` says it."""

    word: str
    """What stands for it in a prompt."""
    vectors: int
    """How many places it takes there."""

    def __str__(self) -> str:
        return f"embedding {self.word!r}: {self.vectors} vector{'s' * (self.vectors > 1)}"


class Words:
    """The added words of a model."""

    def __init__(self, towers: Sequence[tuple[Tokenizer, TextEncoder]]) -> None:
        """Of these text encoders, each with its tokenizer; nothing is added yet."""
        self.towers = towers
        self._loaded: dict[str, Embedding] = {}

    def load(self, path: str | PathLike[str], word: str | None, *, allow_pickle: bool) -> EmbeddingReport:
        """Add the word at ``path``; one that is spelled so is replaced."""
        widths = {encoder.component: encoder.config.width for _, encoder in self.towers}
        found = textual_inversion.read(str(path), widths, word=word, allow_pickle=allow_pickle)
        self._settle({**self._loaded, found.word: found})
        return EmbeddingReport(word=found.word, vectors=found.length)

    def unload(self, word: str | None) -> None:
        """Forget one added word, or all of them."""
        if word is not None and word not in self._loaded:
            there = ", ".join(map(repr, self._loaded)) or "none"
            raise InputError(f"no embedding {word!r} is loaded; loaded are: {there}")
        self._settle({each: found for each, found in self._loaded.items() if word is not None and each != word})

    def used(self, texts: Iterable[str]) -> list[dict[str, str]]:
        """What a receipt says of the added words in these texts."""
        tokenizer, _ = self.towers[0]
        ids = {i for text in texts for i in tokenizer.tokenize(text)} if self._loaded else set()
        return [
            {"word": word, "sha256": found.sha256}
            for word, found in self._loaded.items()
            if not ids.isdisjoint(tokenizer.words[word])
        ]

    def _settle(self, wanted: dict[str, Embedding]) -> None:
        lengths = {word: found.length for word, found in wanted.items()}
        for tokenizer, encoder in self.towers:
            tokenizer.add_words(lengths)
            vectors = [found.vectors[encoder.component] for found in wanted.values()]
            encoder.words = torch.cat(vectors).to(encoder.token.weight) if vectors else None
        self._loaded = wanted
