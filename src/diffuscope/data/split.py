"""The split: pairs held out from training, chosen by a stable hash of their names."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from diffuscope.data.corpus import Corpus
from diffuscope.data.names import slug
from diffuscope.data.other_names import EVERYDAY
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.palette import COLOUR_WORDS

_SHARE = 0.05
_STYLES = 4  # a concept loses a style only if it has this many
_EVALUATION_STYLES = 5
_EVALUATION = 250


def stable_hash(*words: str) -> float:
    """A number in [0,1) that depends only on ``words``."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:7], "big") / (1 << 56)


def without_colour(name: str) -> str:
    """``name`` without a leading colour word: "red apple" -> "apple", "orange" -> "orange"."""
    first, _, rest = name.partition(" ")
    return rest if rest and first.lower() in COLOUR_WORDS else name


def has_colour(name: str) -> bool:
    """Whether any word of ``name`` is a colour word."""
    return not set(COLOUR_WORDS).isdisjoint(name.lower().replace("-", " ").split())


def colour_key(name: str) -> str:
    """The concept without its colour: the same for "red apple" and "green apple"."""
    return slug(without_colour(name))


@dataclass(frozen=True)
class Split:
    """The pairs held out from training, and the concepts of the evaluation."""

    styles: frozenset[tuple[str, str]]
    """Held-out (concept, style): about 5%, never all styles of a concept."""
    colours: frozenset[tuple[str, str]]
    """Held-out (colour word, ``colour_key`` of the name): about 5%."""
    concepts: tuple[str, ...] = field(repr=False)
    """The evaluation concepts: everyday things in five emoji styles or more."""

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of a SHA-256 of the split; printed with every score."""
        text = repr((sorted(self.styles), sorted(self.colours), self.concepts))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def everyday_concepts(corpus: Corpus) -> tuple[str, ...]:
    """Sorted everyday things in five emoji styles or more, of which the evaluation concepts are 250."""
    styles: dict[str, set[str]] = defaultdict(set)
    for picture in corpus.pictures:
        if picture.group in EVERYDAY and picture.style in EMOJI_STYLES:
            styles[picture.concept].add(picture.style)
    return tuple(sorted(concept for concept, own in styles.items() if len(own) >= _EVALUATION_STYLES))


def split(corpus: Corpus) -> Split:
    """The split of ``corpus``; it does not depend on the order of the pictures."""
    styles: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    for picture in corpus.pictures:
        styles[picture.concept].add(picture.style)
        names[colour_key(picture.name)].add(slug(picture.name))

    held_styles = set()
    for concept, own in styles.items():
        held = [style for style in own if stable_hash("style", concept, style) < _SHARE]
        if len(own) >= _STYLES and len(held) < len(own):
            held_styles |= {(concept, style) for style in held}
    held_colours = {
        (colour, key)
        for key, own in names.items()
        for colour in COLOUR_WORDS
        if stable_hash("colour", colour, key) < _SHARE and f"{colour}-{key}" not in own
    }
    chosen = sorted(everyday_concepts(corpus), key=lambda concept: stable_hash("evaluation", concept))[:_EVALUATION]
    return Split(frozenset(held_styles), frozenset(held_colours), tuple(sorted(chosen)))
