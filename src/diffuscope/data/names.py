"""Names of pictures: Unicode labels to phrases, icon file names to labels, clean tags."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffuscope.data import other_names

_TONES = "light|medium-light|medium|medium-dark|dark"
_TONE = re.compile(rf"-tone\d|skin-tone|-({_TONES})(-({_TONES}))?$")
_PLAIN_TAG = re.compile(r"[a-z][a-z' -]{2,23}")


@dataclass(frozen=True, slots=True)
class Label:
    """Name, tags by rank, group, order and other names of one Unicode emoji."""

    name: str
    tags: tuple[str, ...]
    group: str
    order: int
    also: tuple[str, ...] = ()


def slug(text: str) -> str:
    """``text`` as lower-case ASCII words joined by hyphens: "Piñata" -> "pinata"."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"[.'!()]", "", ascii_text.lower().replace("&", "and"))).strip("-")


def phrase(label: str) -> str:
    """A Unicode label as a phrase: "flag: France" -> "flag of France", "man: red hair" -> "man with red hair"."""
    label = label.replace("’", "'").replace("“", "").replace("”", "")
    head, colon, detail = label.partition(": ")
    if not colon:
        return label
    if head == "flag":
        return f"flag of {detail}"
    if head == "keycap":
        return f"keycap {detail}"
    if head in ("family", "kiss", "couple with heart"):
        return f"{head} of {detail}"
    if detail == "bald":
        return f"bald {head}"
    if head in ("person", "man", "woman"):
        return f"{head} with {detail}"
    return f"{head} {detail}"


def has_skin_tone(key: str, keys: Mapping[str, Any]) -> bool:
    """Whether the icon ``key`` is a skin-tone variant of another icon in ``keys``."""
    match = _TONE.search(key)
    return match is not None and ("tone" in match.group() or key[: match.start()] in keys)


def clean_tags(name: str, words: Iterable[str]) -> tuple[str, ...]:
    """Tags that are plain words other than the name, each once, in the order of ``words``."""
    spoken = dict.fromkeys(word.replace("_", " ").replace("’", "'").lower().strip() for word in words)
    return tuple(word for word in spoken if _PLAIN_TAG.fullmatch(word) and word != name.lower())


def rank_tags(unicode_tags: Sequence[str], keywords: Sequence[str]) -> tuple[str, ...]:
    """Both lists as one: what both have, in the order of ``keywords``; then Unicode's, then the other keywords.

    Unicode's tags are few and hold for the thing itself, but they are in alphabetical order. emojilib's keywords are
    ranked, but many: a paw print is a "puppy" there, in the tenth place.
    """
    both = [word for word in keywords if word in unicode_tags]
    return tuple(dict.fromkeys([*both, *unicode_tags, *keywords]))


def read_labels(emojis: list[dict[str, Any]], keywords: Mapping[str, list[str]], groups: Mapping[str, str]) -> "Labels":
    """Lookup from icon names to the labels of emojibase (``emojis``, ``groups``) with the keywords of emojilib."""
    known: dict[str, Label] = {}
    spellings: dict[str, str] = {}
    words: dict[str, other_names.Words] = {}
    for emoji in emojis:
        if "group" not in emoji:
            continue
        group = groups[str(emoji["group"])]
        if group == "component":
            continue
        more = keywords.get(emoji["emoji"], keywords.get(emoji["emoji"].removesuffix("\ufe0f"), []))
        name = phrase(emoji["label"])
        key = slug(name)
        unicode_tags, ranked = clean_tags(name, emoji.get("tags", [])), clean_tags(name, more)
        known[key] = Label(name, rank_tags(unicode_tags, ranked), group, emoji["order"])
        words[key] = other_names.Words(name, group, unicode_tags, ranked)
        spellings.setdefault(slug(emoji["label"]), key)
        if more:
            spellings.setdefault(slug(more[0].replace("_", " ")), key)
    also = other_names.of_tags(words.values())
    return Labels({key: replace(label, also=also.get(label.name, ())) for key, label in known.items()}, spellings)


class Labels:
    """Finds the Unicode label behind an icon's file name."""

    def __init__(self, known: Mapping[str, Label], spellings: Mapping[str, str]) -> None:
        self._known = dict(known)
        self._spellings = {**spellings, **{key: key for key in known}}
        self._run_together = {key.replace("-", ""): key for key in known}

    def find(self, key: str, aliases: Iterable[str] = ()) -> Label | None:
        """The label that ``key``, or one of its ``aliases``, spells; None if there is none."""
        key = re.sub(r"^flag-for-(flag-)?", "flag-", key)
        for spelling in (key, *aliases, key.removesuffix("-face"), f"flag-{key}"):
            if spelling in self._spellings:
                return self._known[self._spellings[spelling]]
        return None

    def find_run_together(self, key: str) -> Label | None:
        """The label whose words written as one are ``key`` ("cherryblossom"); None if there is none."""
        spelling = self._run_together.get(key)
        return None if spelling is None else self._known[spelling]
