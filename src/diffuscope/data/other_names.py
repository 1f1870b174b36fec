"""Other names of the same thing: "puppy" of a dog face, by its tags; "wolf" of a wolf head, by the noun in its name."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from diffuscope.data.captions import COUNTS

EVERYDAY = ("animals-nature", "food-drink", "travel-places", "objects", "activities")
"""Unicode groups of everyday things."""

_MOST_TAGGED = 5  # everyday concepts that may be tagged with a word, of which
_MOST_NAMED = 4  # so many may be called by it

_NUMBERS = frozenset({*COUNTS.values(), "one", "ten", "eleven", "twelve"})

_VIEWS = frozenset(
    {"head", "face", "emblem", "howl", "profile", "ball", "cup", "bunch", "peeled", "slice", "building", "cone", "loaf",
     "shaker", "pot", "flight", "unfurled", "kit", "flower", "light"}
)  # fmt: skip
"""Words after a thing that name a view or a portion of it: a "wolf head" is a wolf, a "wolf trap" is not."""

_OTHER_THINGS = frozenset(
    {"ads window", "air balloon", "analytics pie", "baseball bat", "basketball basket", "battle gear", "big gear",
     "boxing ring", "butterfly flower", "cloud ring", "concert rock", "cooking pot", "cricket bat", "dead wood",
     "desert eagle", "dice fire", "dust cloud", "fire flower", "flying fox", "fog light", "freedom dove",
     "globe ring", "guitar head", "heart battery", "hypersonic melon", "i brick", "j brick", "l brick",
     "loading star", "lock key", "monetization mouse", "monitor bug", "mushroom cloud", "o brick", "phone ring",
     "piggy bank", "playlist cloud", "poison cloud", "s brick", "saving bank", "siege ram", "smoke bomb",
     "spider face", "spiked bat", "t brick", "toilet seat", "tribal gear", "wax seal", "z brick"}
)  # fmt: skip
"""Names whose noun is another thing of the same name: a baseball bat is no bat. Found by looking at all pictures."""


@dataclass(frozen=True, slots=True)
class Words:
    """What two dictionaries say of one emoji."""

    name: str
    group: str
    unicode_tags: tuple[str, ...]
    """Of Unicode, in alphabetical order."""
    keywords: tuple[str, ...]
    """Of emojilib, by rank."""


def of_tags(emojis: Iterable[Words]) -> dict[str, tuple[str, ...]]:
    """Name -> the tags that are names of it: words of few everyday things, given to those that fit best.

    If Unicode has the word, it is a name of those that Unicode gives it to; if only emojilib has it, of those where it
    ranks highest.
    """
    emojis = list(emojis)
    names = {emoji.name.lower() for emoji in emojis}
    carriers: dict[str, list[Words]] = defaultdict(list)
    for emoji in emojis:
        for word in dict.fromkeys((*emoji.unicode_tags, *emoji.keywords)):
            carriers[word].append(emoji)
    also: dict[str, list[str]] = defaultdict(list)
    for word, own in carriers.items():
        everyday = [emoji for emoji in own if emoji.group in EVERYDAY]
        if word in names or word in _NUMBERS or len(everyday) > _MOST_TAGGED:
            continue
        called = [emoji for emoji in own if word in emoji.unicode_tags]
        if not called:
            best = min(emoji.keywords.index(word) for emoji in own)
            called = [emoji for emoji in own if emoji.keywords.index(word) == best]
        called = [emoji for emoji in called if emoji.group in EVERYDAY]
        for emoji in called if len(called) <= _MOST_NAMED else ():
            also[emoji.name].append(word)
    return {name: tuple(words) for name, words in also.items()}


def of_icon(name: str, things: Collection[str]) -> str | None:
    """The everyday thing, of ``things``, that an icon called ``name`` shows; None if there is none.

    It is the last noun ("polar bear" is a bear), or the first before a view ("wolf head" is a wolf).
    """
    if name in _OTHER_THINGS or name in things or name.count(" ") not in (1, 2):
        return None
    words = name.split(" ")
    if words[-1] in _VIEWS and " ".join(words[:-1]) in things:
        return " ".join(words[:-1])
    return words[-1] if len(words) == 2 and words[-1] in things else None
