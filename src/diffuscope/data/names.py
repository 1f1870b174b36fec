"""Names of pictures: Unicode labels to phrases, icon file names to labels, clean tags."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_TONES = "light|medium-light|medium|medium-dark|dark"
_TONE = re.compile(rf"-tone\d|skin-tone|-({_TONES})(-({_TONES}))?$")
_PLAIN_TAG = re.compile(r"[a-z][a-z' -]{2,23}")


@dataclass(frozen=True, slots=True)
class Label:
    """Name, tags, group and order of one Unicode emoji."""

    name: str
    tags: tuple[str, ...]
    group: str
    order: int


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
    """Tags that are plain words other than the name, sorted, each once."""
    spoken = {word.replace("_", " ").replace("’", "'").lower().strip() for word in words}
    return tuple(sorted(word for word in spoken if _PLAIN_TAG.fullmatch(word) and word != name.lower()))


def read_labels(emojis: list[dict[str, Any]], keywords: Mapping[str, list[str]], groups: Mapping[str, str]) -> "Labels":
    """Lookup from icon names to the labels of emojibase (``emojis``, ``groups``) with the keywords of emojilib."""
    known: dict[str, Label] = {}
    spellings: dict[str, str] = {}
    for emoji in emojis:
        if "group" not in emoji:
            continue
        group = groups[str(emoji["group"])]
        if group == "component":
            continue
        more = keywords.get(emoji["emoji"], keywords.get(emoji["emoji"].removesuffix("\ufe0f"), []))
        name = phrase(emoji["label"])
        key = slug(name)
        known[key] = Label(name, clean_tags(name, [*emoji.get("tags", []), *more]), group, emoji["order"])
        spellings.setdefault(slug(emoji["label"]), key)
        if more:
            spellings.setdefault(slug(more[0].replace("_", " ")), key)
    return Labels(known, spellings)


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
