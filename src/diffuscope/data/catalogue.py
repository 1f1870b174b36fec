"""What scenes are drawn from: concepts with weights, their pictures by style, and what may be done to each."""

import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffuscope.data.corpus import Corpus
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.palette import WORDS
from diffuscope.data.split import EVERYDAY, Split, colour_key, has_colour, without_colour
from diffuscope.errors import InputError

GROUP_WEIGHTS = {
    "animals-nature": 3.0,
    "food-drink": 3.0,
    "travel-places": 2.2,
    "objects": 2.2,
    "activities": 2.2,
    "smileys-emotion": 1.6,
    "people-body": 0.45,
    "symbols": 0.25,
    "flags": 0.2,
    "icon": 0.07,
}
"""How often a concept is drawn: things one would ask for often, symbols and flags seldom."""

STYLE_WEIGHTS = {"blob": 0.9, "emojitwo": 0.9, "firefox": 0.8, "line icon": 0.7, "freehand": 0.5, "game icon": 0.4}
"""How often a style is drawn among a concept's; 1 where nothing stands here."""

STYLE_NAMED = {"line icon": 0.9, "freehand": 0.9, "game icon": 1.0}
"""How often a caption names the style; ``_NAMED`` where nothing stands here."""

_NAMED = 0.65
_CLOCKS = 0.05  # weight of each of the two dozen clock faces
_WORD_CONCEPTS = 3  # a tag may stand for a thing if it belongs to at most so many
_NO_COLOUR_GROUPS = frozenset({"flags", "people-body", "symbols"})
_ONE_WAY = re.compile(
    r"clock|watch|o'clock|thirty|arrow|left|right|facing|letter|sign|button|keycap|number|abc|calendar|book|news|label|"
    r"medal|digit|receipt|ledger|page|scroll|dollar|euro|pound|yen|money|credit|atm|card|computer|keyboard|hotel|hospital|"
    r"office|bank|store|school|ambulance|police|bus|taxi|map|globe|compass|timer|speed|text|question|percent|spell|logo"
)

Item = TypeVar("Item")


class Weighted(Generic[Item]):
    """A choice among items by weight."""

    def __init__(self, items: Sequence[Item], weights: Sequence[float]) -> None:
        self.items = tuple(items)
        self._sums = list(accumulate(weights))

    def draw(self, random: Random) -> Item:
        """One item; asks ``random`` for one number."""
        place = bisect(self._sums, random.random() * self._sums[-1])
        return self.items[min(place, len(self.items) - 1)]


@dataclass(frozen=True, slots=True)
class Sprite:
    """One picture, as scenes need it."""

    row: int
    """Its place in the corpus."""
    style: str
    name: str
    bare: str
    """The name without its colour word."""
    words: tuple[str, ...]
    """Tags that may stand for the name: "puppy"."""
    tags: tuple[str, ...]
    colours: tuple[int, ...]
    """Colour words (indices) it may be given; none where it cannot be recoloured."""
    mirror: bool
    tone: tuple[float, float, float, float]

    @property
    def named(self) -> float:
        """Probability that a caption names the style."""
        return STYLE_NAMED.get(self.style, _NAMED)


@dataclass(frozen=True)
class Catalogue:
    """Two weighted choices of concepts, each concept a weighted choice of its sprites."""

    every: Weighted[Weighted[Sprite]]
    coloured: Weighted[Weighted[Sprite]]
    """Only sprites that can be recoloured."""


def catalogue(
    corpus: Corpus, split: Split, tones: NDArray[np.float32], takes: NDArray[np.bool_], *, train: bool = True
) -> Catalogue:
    """The catalogue of ``corpus``.

    Args:
        corpus: all pictures.
        split: what to leave out.
        tones: [N,4] of ``colours.measure``.
        takes: [N,12] of ``things.takes``: a caption names a colour only where it can be seen.
        train: leave out every held-out (concept, style) and (colour, concept).

    Raises:
        InputError: ``tones`` or ``takes`` do not belong to ``corpus``.
    """
    if not len(tones) == len(takes) == len(corpus.pictures):
        raise InputError(
            f"{len(tones)} tones and {len(takes)} rows of colours for {len(corpus.pictures)} pictures; "
            "measure the pictures of this corpus"
        )
    words = _telling_words(corpus)
    concepts: dict[str, list[Sprite]] = defaultdict(list)
    groups: dict[str, str] = {}
    for row, picture in enumerate(corpus.pictures):
        if train and (picture.concept, picture.style) in split.styles:
            continue
        groups[picture.concept] = picture.group
        bare = without_colour(picture.name)
        held = split.colours if train else frozenset()
        can = takes[row] & (picture.group not in _NO_COLOUR_GROUPS and not has_colour(bare))
        key = colour_key(picture.name)
        colours = tuple(i for i, colour in enumerate(WORDS) if can[i] and (colour, key) not in held)
        mirror = picture.group not in ("flags", "symbols", "icon") and not _ONE_WAY.search(picture.name.lower())
        tone = tuple(tones[row].tolist())
        tags = tuple(tag for tag in picture.tags if not has_colour(tag))
        telling = tuple(tag for tag in tags if tag in words) if picture.group in EVERYDAY else ()
        sprite = Sprite(row, picture.style, picture.name, bare, telling, tags, colours, mirror, tone)
        concepts[picture.concept].append(sprite)
    return Catalogue(_choice(concepts, groups, False), _choice(concepts, groups, True))


def _choice(concepts: dict[str, list[Sprite]], groups: dict[str, str], coloured: bool) -> Weighted[Weighted[Sprite]]:
    choices, weights = [], []
    for concept, sprites in concepts.items():
        kept = [sprite for sprite in sprites if sprite.colours or not coloured]
        if not kept:
            continue
        copies = Counter(sprite.style for sprite in kept)
        choices.append(Weighted(kept, [STYLE_WEIGHTS.get(s.style, 1.0) / copies[s.style] for s in kept]))
        clock = re.search(r"o-?clock|-thirty$", concept)
        weights.append(_CLOCKS if clock else GROUP_WEIGHTS[groups[concept]])
    return Weighted(choices, weights)


def _telling_words(corpus: Corpus) -> frozenset[str]:
    """Tags of everyday things that name few concepts, and are no name themselves."""
    names = {picture.name.lower() for picture in corpus.pictures}
    concepts: dict[str, set[str]] = defaultdict(set)
    for picture in corpus.pictures:
        if picture.style in EMOJI_STYLES and picture.group in EVERYDAY:
            for tag in picture.tags:
                concepts[tag].add(picture.concept)
    return frozenset(tag for tag, own in concepts.items() if len(own) <= _WORD_CONCEPTS and tag not in names)
