"""Random choice of sprites: concepts by weight, then their pictures by style, and how each may be changed."""

import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.names import slug
from diffuscope.data.palette import COLOUR_WORDS
from diffuscope.data.split import Split, colour_key, has_colour, without_colour
from diffuscope.errors import InputError, Unquoted

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
    "icon": 0.09,
}
"""Sampling weight of a concept by its group: everyday things often, symbols and flags seldom."""

STYLE_WEIGHTS = {"blob": 0.9, "emojitwo": 0.9, "firefox": 0.8, "line icon": 0.9, "freehand": 0.8, "game icon": 0.8}
"""Sampling weight of a style among the pictures of a concept; 1 for other styles."""

STYLE_NAMED = {"line icon": 0.9, "freehand": 0.9, "game icon": 1.0}
"""Probability that a caption names the style; ``_STYLE_NAMED`` for other styles."""

_STYLE_NAMED = 0.65
_CLOCKS = 0.05  # weight of each of the two dozen clock faces
_MOST_TAGS = 6  # of a picture, the first by rank, that a caption of tags may have
_NO_COLOUR_GROUPS = frozenset({"flags", "people-body", "symbols"})
_ONE_WAY = re.compile(
    r"clock|watch|o'clock|thirty|arrow|left|right|facing|letter|sign|button|keycap|number|abc|calendar|book|news|label|"
    r"medal|digit|receipt|ledger|page|scroll|dollar|euro|pound|yen|money|credit|atm|card|computer|keyboard|hotel|hospital|"
    r"office|bank|store|school|ambulance|police|bus|taxi|map|globe|compass|timer|speed|text|question|percent|spell|logo"
)

Item = TypeVar("Item")


class WeightedChoice(Generic[Item]):
    """A random choice among items by weight."""

    def __init__(self, items: Sequence[Item], weights: Sequence[float]) -> None:
        self.items = tuple(items)
        self._sums = list(accumulate(weights))

    def sample(self, random: Random) -> Item:
        """One item, from one random number."""
        index = bisect(self._sums, random.random() * self._sums[-1])
        return self.items[min(index, len(self.items) - 1)]


@dataclass(frozen=True, slots=True)
class Sprite:
    """One picture of the corpus, with what captions and scenes may do with it."""

    row: int
    """Index in the corpus."""
    style: str
    name: str
    plain_name: str
    """The name without its colour word."""
    other_names: tuple[str, ...]
    """Words that may replace the name: "puppy"."""
    tags: tuple[str, ...]
    """The first by rank."""
    colours: tuple[int, ...]
    """Indices of the colour words that it may be recoloured to; empty if none."""
    mirror: bool
    tone: tuple[float, float, float, float]

    @property
    def named(self) -> float:
        """Probability that a caption names the style."""
        return STYLE_NAMED.get(self.style, _STYLE_NAMED)


@dataclass(frozen=True)
class SpriteSampler:
    """Weighted choices of concepts; each concept is a weighted choice of its sprites."""

    every: WeightedChoice[WeightedChoice[Sprite]]
    recolourable: WeightedChoice[WeightedChoice[Sprite]]
    """Only sprites that can be recoloured."""


def sprite_sampler(
    corpus: Corpus, split: Split, tones: NDArray[np.float32], recolourable: NDArray[np.bool_], *, train: bool = True
) -> SpriteSampler:
    """The sampler of ``corpus``.

    Args:
        corpus: all pictures.
        split: the held-out pairs.
        tones: [N,4] of ``colours.dominant_tones``.
        recolourable: [N,12] of ``foreground.recolourable``: captions name a colour only where it can be seen.
        train: leave out every held-out (concept, style) and (colour, concept).
    """
    for name, rows in (("tones", tones), ("recolourable", recolourable)):
        if len(rows) != len(corpus.pictures):
            raise InputError(
                name, Unquoted(f"{len(rows)} rows"), f"one row for each of {len(corpus.pictures)} pictures"
            )
    groups = {picture.concept: picture.group for picture in corpus.pictures}
    concepts: dict[str, list[Sprite]] = defaultdict(list)
    for row, picture in enumerate(corpus.pictures):
        may_be_coloured = recolourable[row] & (picture.group not in _NO_COLOUR_GROUPS)
        for named in (picture, *_as_other_concepts(picture, groups)):
            if train and (named.concept, named.style) in split.styles:
                continue
            held = split.colours if train else frozenset()
            tone = tuple(tones[row].tolist())
            concepts[named.concept].append(_sprite(row, named, groups, may_be_coloured, tone, held))
    return SpriteSampler(_choice(concepts, groups, False), _choice(concepts, groups, True))


def _as_other_concepts(picture: Picture, groups: Mapping[str, str]) -> Iterator[Picture]:
    """The picture as one of each other concept that it shows: a wolf head as a "wolf", without its own tags."""
    for name in picture.also:
        if (concept := slug(name)) in groups:
            yield replace(picture, name=name, tags=(), group=groups[concept], concept=concept, also=())


def _sprite(
    row: int,
    picture: Picture,
    groups: Mapping[str, str],
    may_be_coloured: NDArray[np.bool_],
    tone: tuple[float, float, float, float],
    held: Collection[tuple[str, str]],
) -> Sprite:
    """One picture, to be recoloured to no ``held`` (colour, concept)."""
    plain_name, key = without_colour(picture.name), colour_key(picture.name)
    allowed = may_be_coloured & (not has_colour(plain_name))
    colours = tuple(i for i, colour in enumerate(COLOUR_WORDS) if allowed[i] and (colour, key) not in held)
    mirror = picture.group not in ("flags", "symbols", "icon") and not _ONE_WAY.search(picture.name.lower())
    tags = tuple(tag for tag in picture.tags if not has_colour(tag))[:_MOST_TAGS]
    also = tuple(name for name in picture.also if not has_colour(name) and slug(name) not in groups)
    return Sprite(row, picture.style, picture.name, plain_name, also, tags, colours, mirror, tone)


def _choice(
    concepts: dict[str, list[Sprite]], groups: dict[str, str], only_recolourable: bool
) -> WeightedChoice[WeightedChoice[Sprite]]:
    choices, weights = [], []
    for concept, sprites in concepts.items():
        kept = [sprite for sprite in sprites if sprite.colours or not only_recolourable]
        if not kept:
            continue
        copies = Counter(sprite.style for sprite in kept)
        choices.append(WeightedChoice(kept, [STYLE_WEIGHTS.get(s.style, 1.0) / copies[s.style] for s in kept]))
        clock = re.search(r"o-?clock|-thirty$", concept)
        weights.append(_CLOCKS if clock else GROUP_WEIGHTS[groups[concept]])
    return WeightedChoice(choices, weights)
