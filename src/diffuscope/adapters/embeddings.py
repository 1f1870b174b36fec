"""Textual-inversion embeddings: which are loaded, into which tokenizers and text encoders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import torch

from diffuscope.errors import InputError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.weights.adapter import textual_inversion
from diffuscope.weights.adapter.textual_inversion import TextualInversion


@dataclass(frozen=True, kw_only=True)
class EmbeddingReport:
    """A loaded embedding's summary; ``str()`` is one line."""

    word: str
    """Its word in a prompt."""
    vectors: int
    """How many tokens it takes there."""
    unused: tuple[str, ...] = ()
    """Tensors of the file for a text encoder that the model lacks."""

    def __str__(self) -> str:
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"embedding {self.word!r}: {self.vectors} vector{'s' * (self.vectors > 1)}{unused}"


class Embeddings:
    """The textual-inversion embeddings of a model."""

    def __init__(self, towers: Sequence[tuple[Tokenizer, TextEncoder]]) -> None:
        """Of these text encoders, each with its tokenizer; nothing is added yet."""
        self.towers = towers
        self._loaded: dict[str, TextualInversion] = {}

    @property
    def lengths(self) -> dict[str, int]:
        """Word -> how many tokens it takes, of each that is loaded."""
        return {word: loaded.length for word, loaded in self._loaded.items()}

    def load(
        self, path: str | PathLike[str], word: str | None = None, *, allow_pickle: bool = False
    ) -> EmbeddingReport:
        """Load a textual-inversion embedding: from now on ``word`` in a prompt stands for its vectors.

        The tokenizer gets ids beyond CLIP's, and the text encoder their vectors; ``pipe.save`` leaves both out. The
        word is found in any case, where no letter, digit or underscore adjoins it.

        Args:
            path: a file of diffusers, AUTOMATIC1111's web UI or SDXL's pairs, or a folder with learned_embeds.
            word: without white space; the file's own by default. A loaded embedding of that word is replaced. In a
                LoRA's file with several embeddings, the one to load.
            allow_pickle: also read ``.pt`` and ``.bin``, as ``load`` does.

        Raises:
            ModelNotFoundError: there is no such file.
            WeightsError: it is damaged, a pickle that is not allowed, or no embedding.
            WeightMismatchError: its vectors are not as wide as the model's text.
            InputError: the word cannot stand in a prompt.
        """
        widths = {encoder.component: encoder.config.width for _, encoder in self.towers}
        loaded = textual_inversion.read(str(path), widths, word=word, allow_pickle=allow_pickle)
        self._install({**self._loaded, loaded.word: loaded})
        return EmbeddingReport(word=loaded.word, vectors=loaded.length, unused=loaded.unused)

    def unload(self, word: str | None = None) -> None:
        """Unload the embedding of a word, or all of them.

        Raises:
            InputError: none of that word is loaded.
        """
        if word is not None and word not in self._loaded:
            raise InputError(
                "word", word, f"a loaded embedding: {', '.join(map(repr, self._loaded)) or 'there is none'}"
            )
        self._install({each: loaded for each, loaded in self._loaded.items() if word is not None and each != word})

    def receipt_entries(self, texts: Iterable[str]) -> list[dict[str, str]]:
        """The receipt's entries for the embeddings in these texts."""
        tokenizer, _ = self.towers[0]
        ids = {i for text in texts for i in tokenizer.tokenize(text)} if self._loaded else set()
        return [
            {"word": word, "sha256": loaded.sha256}
            for word, loaded in self._loaded.items()
            if not ids.isdisjoint(tokenizer.added_tokens[word])
        ]

    def _install(self, embeddings: dict[str, TextualInversion]) -> None:
        lengths = {word: loaded.length for word, loaded in embeddings.items()}
        for tokenizer, encoder in self.towers:
            tokenizer.set_added_tokens(lengths)
            vectors = [loaded.vectors[encoder.component] for loaded in embeddings.values()]
            encoder.added_embeddings = torch.cat(vectors).to(encoder.token_embedding.weight) if vectors else None
        self._loaded = embeddings
