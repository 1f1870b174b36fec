"""The files of a folder's tokenizer, as transformers writes them: merges, vocabularies, and words that were added.

Textual inversion that is saved with a model adds words to the tokenizer and rows to the text encoder's embeddings.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffuscope.errors import WeightsError, shown
from diffuscope.weights.layout import tokenizer_config
from diffuscope.weights.store import documents

ADVICE = "save the whole folder again"
WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
ADDED, SETTINGS, SPECIAL = "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"


@dataclass(frozen=True)
class AddedToken:
    """A token beyond the vocabulary, with the switches of transformers that say where it is found."""

    content: str
    single_word: bool = False
    normalized: bool = True


@dataclass(frozen=True)
class TokenizerFiles:
    """What a tokenizer's folder holds."""

    folder: Path
    merges: Path | None
    listed: Sequence[Any]  # the merges in ``tokenizer.json``
    vocabularies: Mapping[str, Mapping[str, Any]]  # file -> token -> id
    added: Mapping[int, AddedToken]

    def check(self, tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        """Compare with the tokens and merges in use."""
        ids = {token: i for i, token in enumerate(tokens)} if self.vocabularies else {}
        for name, vocabulary in self.vocabularies.items():
            if vocabulary != ids:
                token = next((token for token, i in ids.items() if vocabulary.get(token) != i), None)
                token = next(token for token in vocabulary if token not in ids) if token is None else token
                raise WeightsError(
                    f"{self.folder / name} is not the vocabulary of the merges: {shown(token)} differs, of "
                    f"{len(vocabulary)} tokens; {ADVICE}"
                )
        if self.listed:
            own = [each.split(" ") if isinstance(each, str) else each for each in self.listed]
            if own != [list(pair) for pair in merges]:
                raise WeightsError(f"{self.folder / WHOLE} has other merges than {self.merges or 'CLIP'}; {ADVICE}")

    def beyond(self, tokens: Sequence[str], vocabulary: int) -> list[tuple[AddedToken, tuple[int, ...]]]:
        """The added tokens of a text encoder with this many embeddings, of which the first are ``tokens``; their ids.

        An embedding of several vectors is a token of its name and others that go on with _1, _2 ...
        """
        for i, token in self.added.items():
            if i < len(tokens) and tokens[i] != token.content:
                raise WeightsError(f"{self.folder}: the token {shown(token.content)} has id {i}, of {shown(tokens[i])}")
            if i >= vocabulary:
                raise WeightsError(
                    f"{self.folder}: the added token {shown(token.content)} has id {i}, and the text encoder "
                    f"{vocabulary} embeddings; {ADVICE}"
                )
            if i >= len(tokens) and (not token.content or token.content.split() != [token.content]):
                raise WeightsError(
                    f"{self.folder}: the added token {shown(token.content)} has white space, which is not supported"
                )
        ids = {token.content: i for i, token in self.added.items() if i >= len(tokens)}

        def further(content: str) -> Iterator[int]:
            names = (f"{content}_{k}" for k in itertools.count(1))
            return (ids[name] for name in itertools.takewhile(ids.__contains__, names))

        return [(self.added[i], (i, *further(content))) for content, i in ids.items()]


def read(folder: Path) -> TokenizerFiles:
    """The files in a tokenizer's folder, of which none is needed; a WeightsError where they are damaged or disagree."""
    contents = {
        name: documents.read_json(folder / name, ADVICE) if (folder / name).is_file() else {}
        for name in (WHOLE, VOCABULARY, ADDED, SETTINGS, SPECIAL)
    }
    whole = contents[WHOLE]
    is_whole = (folder / WHOLE).is_file()
    model = whole.get("model", None if is_whole else {})
    if not isinstance(model, dict):
        raise WeightsError(f"{folder / WHOLE} has no model; {ADVICE}")
    vocabularies = {VOCABULARY: contents[VOCABULARY], WHOLE: model.get("vocab") or {}}
    if not isinstance(vocabularies[WHOLE], dict) or is_whole > bool(vocabularies[WHOLE]):
        raise WeightsError(f"{folder / WHOLE} has no vocabulary; {ADVICE}")
    merges = model.get("merges") or []
    if not isinstance(merges, list) or is_whole > bool(merges):
        raise WeightsError(f"{folder / WHOLE} has no list of merges; {ADVICE}")
    entries: list[tuple[Any, Any]] = [(i, content) for content, i in contents[ADDED].items()]
    listed, decoder = whole.get("added_tokens") or [], contents[SETTINGS].get("added_tokens_decoder") or {}
    if not isinstance(listed, list) or not isinstance(decoder, dict):
        raise WeightsError(f"the added tokens in {folder} are no list; {ADVICE}")
    entries += [(entry.get("id") if isinstance(entry, dict) else None, entry) for entry in listed]
    entries += decoder.items()
    added: dict[int, AddedToken] = {}
    for number, entry in entries:
        i, token = _added(folder, number, entry)
        if i in added and added[i].content != token.content:
            raise WeightsError(
                f"{folder}: {shown(added[i].content)} and {shown(token.content)} have the id {i}; {ADVICE}"
            )
        added[i] = token  # the later files say more
    for name in (SPECIAL, SETTINGS):
        _check_special(folder / name, contents[name], {token.content for token in added.values()})
    return TokenizerFiles(
        folder=folder,
        merges=folder / MERGES if (folder / MERGES).is_file() else None,
        listed=merges,
        vocabularies={name: vocabulary for name, vocabulary in vocabularies.items() if vocabulary},
        added=added,
    )


def _check_special(path: Path, document: Mapping[str, Any], added: set[str]) -> None:
    """Refuse further special tokens without an id: transformers would give them one beyond the embeddings."""
    known = added | {content for contents in tokenizer_config.SPECIAL.values() for content in contents}
    for key in tokenizer_config.FURTHER:
        listed = document.get(key) or []
        listed = [*listed.values()] if isinstance(listed, dict) else listed
        for entry in listed if isinstance(listed, list) else [listed]:
            content = entry.get("content") if isinstance(entry, dict) else entry
            if not isinstance(content, str) or content not in known:
                raise WeightsError(
                    f"{path} has the special token {shown(content)} in {key}, and no file gives it an id; {ADVICE}"
                )


def _added(folder: Path, number: Any, entry: Any) -> tuple[int, AddedToken]:
    switches = entry if isinstance(entry, dict) else {"content": entry}
    content = switches.get("content")
    if isinstance(number, str) and number.isdecimal() and len(number) < 10:
        number = int(number)
    if not isinstance(content, str) or isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise WeightsError(f"{folder} has the added token {shown(entry)} with the id {shown(number)}; {ADVICE}")
    return number, AddedToken(content, bool(switches.get("single_word", False)), bool(switches.get("normalized", True)))
