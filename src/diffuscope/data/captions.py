"""Captions: a small grammar that describes a scene.

single   [a picture of] a [tiny|huge] [COLOUR] NAME [in the top left corner] [on a COLOUR background][, STYLE style]
pair     a [COLOUR] NAME and a [COLOUR] NAME side by side [on a COLOUR background][, STYLE style]
count    two [COLOUR] NAMES [on a COLOUR background][, STYLE style]
tags     WORD, WORD[, WORD][, STYLE style]
"""

import re
from dataclasses import dataclass

PREFIXES = ("", "a", "a picture of a", "an emoji of a", "an icon of a")
RELATIONS = ("side by side", "on the left of", "on the right of", "above", "below")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
SIZES = ("tiny", "huge")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
PLACES = (*(f"in the {corner} corner" for corner in CORNERS), "in the middle")

_SAME_PLURAL = ("fish", "sheep", "deer", "moose", "maracas", "shrimp", "squid", "bison", "broccoli", "bread", "police")
_PLURALS = {"man": "men", "woman": "women", "person": "people", "child": "children", "mouse": "mice", "goose": "geese",
            "tooth": "teeth", "foot": "feet", "leaf": "leaves", "knife": "knives", "wolf": "wolves", "loaf": "loaves",
            "ox": "oxen", "tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """A name, with or without a colour word."""

    name: str
    colour: str | None = None

    def __str__(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """The content of a caption; ``caption_text`` writes it."""

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


def caption_text(caption: Caption) -> str:
    """The caption as a sentence."""
    if caption.tags:
        text = ", ".join(str(thing) for thing in caption.things)
    elif caption.relation is not None:
        first, second = (with_article(str(thing)) for thing in caption.things)
        sides = caption.relation == RELATIONS[0]
        text = f"{first} and {second} {RELATIONS[0]}" if sides else f"{first} {caption.relation} {second}"
    elif caption.count > 1:
        thing = caption.things[0]
        text = f"{COUNTS[caption.count]} {Thing(plural(thing.name), thing.colour)}"
    else:
        words = str(caption.things[0]) if caption.size is None else f"{caption.size} {caption.things[0]}"
        text = with_prefix(caption.prefix, words)
        if caption.place is not None:
            text += f" {caption.place}"
    if caption.background is not None:
        text += f" on {with_article(caption.background)} background"
    return text if caption.style is None else f"{text}, {caption.style} style"


def with_prefix(prefix: str, words: str) -> str:
    """``words`` after one of ``PREFIXES``, with the right article."""
    if prefix == "":
        return words
    return f"{prefix.removesuffix('a')}{with_article(words)}"


def with_article(words: str) -> str:
    """``words`` after "a" or "an", or as they are if they are a plural."""
    return words if is_plural(words) else f"{article(words)} {words}"


def article(words: str) -> str:
    """The article, "a" or "an", by the sound of ``words``."""
    words = words.lower()
    if re.match(r"(hour|8|11|18|[fhlmnrsx]\b|x-|atm|id |sos)", words):
        return "an"
    silent = re.match(r"(uni|use|eu|ewe|uk|one\b|once|u\b|ufo)", words)
    return "an" if words[:1] in "aeiou" and not silent else "a"


def _head(name: str) -> tuple[str, str]:
    """``name`` as head noun and rest: "slice of pizza" -> ("slice", " of pizza")."""
    match = re.search(r" (of|with|in|on|and|without|facing|holding|wearing|behind|over|at|to|for|from)\b", name)
    return (name, "") if match is None or match.start() == 0 else (name[: match.start()], name[match.start() :])


def is_plural(name: str) -> bool:
    """Whether ``name`` is a plural already ("grapes", "men wrestling")."""
    head = _head(name)[0].lower()
    if head.split(" ")[0] in ("men", "women", "people"):
        return True
    last = head.split(" ")[-1]
    return last in _PLURALS.values() or (
        last.endswith("s") and len(last) > 3 and not re.search(r"(ss|us|is|os|as)$", last)
    )


def plural(name: str) -> str:
    """The plural: "cherry" -> "cherries", "slice of pizza" -> "slices of pizza"."""
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
