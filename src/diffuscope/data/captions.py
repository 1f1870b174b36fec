"""The language of the captions: a small grammar that says what stands in a scene, and its inverse.

single   [a picture of] a [tiny|huge] [COLOUR] NAME [in the top left corner] [on a COLOUR background][, STYLE style]
pair     a [COLOUR] NAME and a [COLOUR] NAME side by side [on a COLOUR background][, STYLE style]
count    two [COLOUR] NAMES [on a COLOUR background][, STYLE style]
tags     WORD, WORD[, WORD][, STYLE style]
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from diffuscope.data.palette import WORDS

PREFIXES = ("", "a", "a picture of a", "an emoji of a", "an icon of a")
RELATIONS = ("side by side", "on the left of", "on the right of", "above", "below")
COUNTS = {2: "two", 3: "three", 4: "four"}
SIZES = ("tiny", "huge")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
PLACES = (*(f"in the {corner} corner" for corner in CORNERS), "in the middle")

_STYLE = re.compile(r"(?P<rest>.*), (?P<style>[^,]+) style")
_BACKGROUND = re.compile(rf"(?P<rest>.*) on an? (?P<colour>{'|'.join(WORDS)}) background")
_SAME_PLURAL = ("fish", "sheep", "deer", "moose", "maracas", "shrimp", "squid", "bison", "broccoli", "bread", "police")
_PLURALS = {"man": "men", "woman": "women", "person": "people", "child": "children", "mouse": "mice", "goose": "geese",
            "tooth": "teeth", "foot": "feet", "leaf": "leaves", "knife": "knives", "wolf": "wolves", "loaf": "loaves",
            "ox": "oxen", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """A name, perhaps with a colour before it."""

    name: str
    colour: str | None = None

    def __str__(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What a caption says; ``say`` writes it, ``Reader.parse`` reads it."""

    things: tuple[Thing, ...]
    """One thing; two with a ``relation``; two or three words as ``tags``."""
    prefix: str = "a"
    relation: str | None = None
    count: int = 1
    tags: bool = False
    size: str | None = None
    place: str | None = None
    background: str | None = None
    style: str | None = None


def say(caption: Caption) -> str:
    """The caption in words."""
    if caption.tags:
        text = ", ".join(str(thing) for thing in caption.things)
    elif caption.relation is not None:
        first, second = (_with_article(str(thing)) for thing in caption.things)
        sides = caption.relation == RELATIONS[0]
        text = f"{first} and {second} {RELATIONS[0]}" if sides else f"{first} {caption.relation} {second}"
    elif caption.count > 1:
        thing = caption.things[0]
        text = f"{COUNTS[caption.count]} {Thing(plural(thing.name), thing.colour)}"
    else:
        words = str(caption.things[0]) if caption.size is None else f"{caption.size} {caption.things[0]}"
        text = _with_prefix(caption.prefix, words)
        if caption.place is not None:
            text += f" {caption.place}"
    if caption.background is not None:
        text += f" on {_with_article(caption.background)} background"
    return text if caption.style is None else f"{text}, {caption.style} style"


def _with_prefix(prefix: str, words: str) -> str:
    if prefix == "":
        return words
    return f"{prefix.removesuffix('a')}{_with_article(words)}"


def _with_article(words: str) -> str:
    return words if is_plural(words) else f"{article(words)} {words}"


def article(words: str) -> str:
    """The article, "a" or "an", as ``words`` sound."""
    words = words.lower()
    if re.match(r"(hour|8|11|18|[fhlmnrsx]\b|x-|atm|id |sos)", words):
        return "an"
    silent = re.match(r"(uni|use|eu|ewe|uk|one\b|once|u\b|ufo)", words)
    return "an" if words[:1] in "aeiou" and not silent else "a"


def _head(name: str) -> tuple[str, str]:
    """``name`` cut before the words that only say more about it: "slice of pizza" -> ("slice", " of pizza")."""
    found = re.search(r" (of|with|in|on|and|without|facing|holding|wearing|behind|over|at|to|for|from)\b", name)
    return (name, "") if found is None or found.start() == 0 else (name[: found.start()], name[found.start() :])


def is_plural(name: str) -> bool:
    """Whether ``name`` already speaks of several ("grapes", "men wrestling")."""
    head = _head(name)[0].lower()
    if head.split(" ")[0] in ("men", "women", "people"):
        return True
    last = head.split(" ")[-1]
    return last in _PLURALS.values() or (
        last.endswith("s") and len(last) > 3 and not re.search(r"(ss|us|is|os|as)$", last)
    )


def plural(name: str) -> str:
    """What comes after "two": "cherry" -> "cherries", "slice of pizza" -> "slices of pizza"."""
    if is_plural(name):
        return name
    head, rest = _head(name)
    start, space, last = head.rpartition(" ")
    if last in _SAME_PLURAL or last.endswith("fish"):
        several = last
    elif last in _PLURALS:
        several = _PLURALS[last]
    elif last.endswith(("man", "mouse")) and last not in ("human", "talisman"):
        several = last[:-3] + "men" if last.endswith("man") else last[:-5] + "mice"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        several = last + "es"
    elif re.search(r"[^aeiou]y$", last):
        several = last[:-1] + "ies"
    else:
        several = last + "s"
    return f"{start}{space}{several}{rest}"


class Reader:
    """Reads captions whose names it knows."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names``: every name and tag that may occur, and every name without its colour word."""
        self._names = frozenset(names)
        self._plurals = {plural(name): name for name in sorted(self._names)}

    def parse(self, text: str) -> Caption | None:
        """The caption that ``say`` turns into ``text``; None if there is none.

        A colour before a name is read as part of the name where that name exists ("red apple").
        """
        rest, style, background = text, None, None
        if found := _STYLE.fullmatch(rest):
            rest, style = found["rest"], found["style"]
        if found := _BACKGROUND.fullmatch(rest):
            rest, background = found["rest"], found["colour"]
        for read in (self._single, self._pair, self._several, self._tags):
            caption = read(rest)
            if caption is not None:
                return replace(caption, background=background, style=style)
        return None

    def _thing(self, words: str, *, several: bool = False) -> Thing | None:
        known = self._plurals if several else {}
        for colour in (None, *WORDS):
            name = words if colour is None else words.removeprefix(f"{colour} ")
            if colour is not None and name == words:
                continue
            if several and name in known:
                return Thing(known[name], colour)
            if not several and name in self._names:
                return Thing(name, colour)
        return None

    def _after_article(self, words: str) -> Thing | None:
        thing = self._thing(re.sub(r"^an? ", "", words))
        return thing if thing is not None and _with_article(str(thing)) == words else None

    def _single(self, text: str) -> Caption | None:
        place = next((place for place in PLACES if text.endswith(f" {place}")), None)
        rest = text if place is None else text.removesuffix(f" {place}")
        for prefix in sorted(PREFIXES, key=len, reverse=True):
            start = prefix.removesuffix("a")
            if not rest.startswith(start):
                continue
            words = re.sub(r"^an? ", "", rest[len(start) :]) if prefix else rest
            for size in (None, *SIZES):
                if size is not None and not words.startswith(f"{size} "):
                    continue
                thing = self._thing(words if size is None else words.removeprefix(f"{size} "))
                if thing is not None and _with_prefix(prefix, words) == rest:
                    return Caption(things=(thing,), prefix=prefix, size=size, place=place)
        return None

    def _pair(self, text: str) -> Caption | None:
        for relation in RELATIONS:
            sides = relation == RELATIONS[0]
            if sides and not text.endswith(f" {relation}"):
                continue
            joint = " and " if sides else f" {relation} "
            whole = text.removesuffix(f" {relation}") if sides else text
            for cut in re.finditer(re.escape(joint), whole):
                first, second = self._after_article(whole[: cut.start()]), self._after_article(whole[cut.end() :])
                if first is not None and second is not None:
                    return Caption(things=(first, second), relation=relation)
        return None

    def _several(self, text: str) -> Caption | None:
        for count, word in COUNTS.items():
            thing = self._thing(text.removeprefix(f"{word} "), several=True) if text.startswith(f"{word} ") else None
            if thing is not None:
                return Caption(things=(thing,), count=count)
        return None

    def _tags(self, text: str) -> Caption | None:
        words = text.split(", ")
        if len(words) in (2, 3) and all(word in self._names for word in words):
            return Caption(things=tuple(Thing(word) for word in words), tags=True)
        return None
