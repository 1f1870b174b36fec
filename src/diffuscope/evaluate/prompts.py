"""Evaluation prompts, each with a real image that matches it, chosen by stable hashes alone."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from diffuscope.data.captions import COUNTS, PLACES, Caption, Thing, caption_text, is_plural
from diffuscope.data.layouts import LAYOUTS, grid
from diffuscope.data.names import slug
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.palette import COLOUR_WORDS, COLOURS, MIN_SHARE, oklab
from diffuscope.data.split import colour_key, has_colour, stable_hash, without_colour
from diffuscope.evaluate.eval_data import WHOLE, EvalData

Item = TypeVar("Item")

IMAGES = 1000
"""Smallest number of images for a score."""

_NOT_WHITE = tuple(word for word in COLOUR_WORDS if word != "white")  # white things do not show on white
_CHUNK = 200  # prompts checked at a time
_BACKGROUNDS = 5  # background colours for each concept
_PAIRS = 10  # pairs of thing and background colour for each concept
_MIN_CONTRAST = 0.2  # OKLab distance of thing and background; training has no smaller one
_COUNTED = 0.9  # size of a counted thing, in distances between two
_TINY, _NEAR = 0.3, 0.19  # size of a tiny thing, and distance of its centre from two sides in a corner
_CORNERS = ((_NEAR, _NEAR), (1 - _NEAR, _NEAR), (_NEAR, 1 - _NEAR), (1 - _NEAR, 1 - _NEAR), (0.5, 0.5))


@dataclass(frozen=True, slots=True)
class EvalPrompt:
    """A prompt, and a real image that matches it."""

    text: str
    row: int
    """Of ``EvalData.pictures``: a real image of the concept."""
    style: str | None = None
    colour: str | None = None
    background: str | None = None
    word: str | None = None
    concept: str | None = None
    """If it is not that of the real image."""
    count: int = 1
    place: str | None = None
    """One of ``PLACES``."""
    at: tuple[tuple[float, float, float], ...] = WHOLE
    """Centre and side of each thing in the real image."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one kind, ``images_per_prompt`` images each. Image i has prompt i // images_per_prompt and seed i."""

    prompts: tuple[EvalPrompt, ...]
    images_per_prompt: int

    @property
    def texts(self) -> list[str]:
        """One for each image."""
        return [prompt.text for prompt in self.prompts for _ in range(self.images_per_prompt)]


def prompt_set(
    prompts: Iterable[EvalPrompt],
    images: int = IMAGES,
    are_valid: Callable[[Sequence[EvalPrompt]], Sequence[bool]] | None = None,
) -> PromptSet:
    """The prompts of at least ``images`` images: as many as there are, up to one for each image.

    Args:
        prompts: in any order; a hash orders them.
        images: number of images.
        are_valid: which of some prompts are kept; None keeps all.
    """
    # The hashed words are part of the definition of the scores: other words would choose other prompts.
    ordered = sorted(prompts, key=lambda prompt: stable_hash("question", prompt.text))
    chosen: list[EvalPrompt] = []
    for start in range(0, len(ordered), _CHUNK):
        part = ordered[start : start + _CHUNK]
        valid = [True] * len(part) if are_valid is None else are_valid(part)
        chosen += [prompt for prompt, keep in zip(part, valid, strict=True) if keep]
        if len(chosen) >= images:
            break
    chosen = chosen[:images]
    return PromptSet(tuple(chosen), max(1, math.ceil(images / max(1, len(chosen)))))


def held_out(data: EvalData) -> list[EvalPrompt]:
    """Every held-out style of every evaluation concept: "a fox, noto style"."""
    return [_style_prompt(data, row) for row in _first_rows(data, data.split.concepts) if data.is_held_out(row)]


def held_out_everyday(data: EvalData) -> list[EvalPrompt]:
    """Every held-out style of every everyday concept, also of those that are no evaluation concept."""
    return [_style_prompt(data, row) for row in _first_rows(data, data.everyday) if data.is_held_out(row)]


def seen(data: EvalData) -> list[EvalPrompt]:
    """Every evaluation concept in one of the styles it was trained in."""
    chosen: dict[str, int] = {}
    for row in _first_rows(data, data.split.concepts):
        if not data.is_held_out(row):
            concept = data.pictures[row].concept
            chosen[concept] = min(chosen.get(concept, row), row, key=lambda r: _row_hash(data, "seen", r))
    return [_style_prompt(data, row) for row in chosen.values()]


def colours(data: EvalData) -> list[EvalPrompt]:
    """Held-out (colour, concept) on white: "a green fox". Only concepts whose dominant colour can be replaced."""
    return [
        _colour_prompt(data, row, colour)
        for row in _recolourable_rows(data)
        for colour in _NOT_WHITE
        if (colour, colour_key(data.pictures[row].name)) in data.split.colours
    ]


def backgrounds(data: EvalData) -> list[EvalPrompt]:
    """Every evaluation concept on five colours: "a fox on a blue background"."""
    prompts = []
    for concept in data.split.concepts:
        row = min(_emoji_rows(data, concept), key=lambda r: _row_hash(data, "background", r))
        name = data.pictures[row].name
        for colour in _shuffled(_NOT_WHITE, "background", concept)[:_BACKGROUNDS]:
            text = caption_text(Caption(things=(Thing(name),), background=colour))
            prompts.append(EvalPrompt(text, row, background=colour))
    return prompts


def both(data: EvalData) -> list[EvalPrompt]:
    """Colour on colour: "a green fox on a blue background"; ten pairs of colours for each concept."""
    prompts = []
    for row in _recolourable_rows(data):
        key = colour_key(data.pictures[row].name)
        for pair in _shuffled(_colour_pairs(), "both", key)[:_PAIRS]:
            own, under = pair.split(" ")
            prompts.append(_colour_prompt(data, row, own, under))
    return prompts


def tag_words(data: EvalData) -> list[EvalPrompt]:
    """Words that occur only as tags: "a puppy"."""
    prompts = []
    for word, carriers in data.tag_words.items():
        rows = [row for concept in sorted(carriers) for row in _emoji_rows(data, concept)]
        row = min(rows, key=lambda r: _row_hash(data, word, r))
        prompts.append(EvalPrompt(caption_text(Caption(things=(Thing(word),))), row, word=word))
    return prompts


def icons(data: EvalData) -> list[EvalPrompt]:
    """An evaluation concept in a style that has it only under a name of its own: "a wolf, game icon style"."""
    chosen: dict[tuple[str, str], int] = {}
    for row, picture in enumerate(data.pictures):
        pairs = [(slug(name), picture.style) for name in picture.also if slug(name) in data.split.concepts]
        for pair in pairs if picture.group == "icon" else []:
            chosen[pair] = min(chosen.get(pair, row), row, key=lambda r: _row_hash(data, "icon", r))
    own = {(picture.concept, picture.style) for picture in data.pictures}
    prompts = []
    for (concept, style), row in chosen.items():
        if (concept, style) not in own:
            name = data.pictures[data.rows[concept][0]].name
            text = caption_text(Caption(things=(Thing(name),), style=style))
            prompts.append(EvalPrompt(text, row, style=style, concept=concept))
    return prompts


def counts(data: EvalData) -> list[EvalPrompt]:
    """Two to nine of every evaluation concept: "five foxes"; not of those whose name is a plural."""
    prompts = []
    for concept in data.split.concepts:
        row = min(_emoji_rows(data, concept), key=lambda r: _row_hash(data, "count", r))
        name = data.pictures[row].name
        for count in () if is_plural(name) else COUNTS:
            gap, spots = grid(_shuffled(LAYOUTS[count], "layout", concept, str(count))[0])
            at = tuple((x, y, _COUNTED * gap) for x, y in spots)
            text = caption_text(Caption(things=(Thing(name),), count=count))
            prompts.append(EvalPrompt(text, row, count=count, at=at))
    return prompts


def several(data: EvalData) -> list[EvalPrompt]:
    """Four attributes: "a tiny green fox in the top left corner on a blue background, noto style"."""
    prompts = []
    for row in _recolourable_rows(data):
        picture, key = data.pictures[row], colour_key(data.pictures[row].name)
        pairs = _shuffled(_colour_pairs(), "several", key)
        for place, (x, y), pair in zip(PLACES, _CORNERS, pairs, strict=False):
            own, under = pair.split(" ")
            thing = Thing(without_colour(picture.name), own)
            caption = Caption(things=(thing,), size="tiny", place=place, background=under, style=picture.style)
            prompts.append(
                EvalPrompt(caption_text(caption), row, picture.style, own, under, place=place, at=((x, y, _TINY),))
            )
    return prompts


def concept_captions(data: EvalData, style: str | None) -> list[str]:
    """The caption of each of ``split.concepts`` in one style."""
    names = [data.pictures[data.rows[concept][0]].name for concept in data.split.concepts]
    return [caption_text(Caption(things=(Thing(name),), style=style)) for name in names]


def in_every_style(data: EvalData, prompt: EvalPrompt) -> list[EvalPrompt]:
    """``prompt`` with each emoji image of its concept; with a colour, only images that have a dominant one."""
    rows = _emoji_rows(data, data.pictures[prompt.row].concept)
    if prompt.colour is not None:
        rows = [row for row in rows if data.canvas.tones[row, 3].item() >= MIN_SHARE]
    return [replace(prompt, row=row) for row in rows]


def _style_prompt(data: EvalData, row: int) -> EvalPrompt:
    picture = data.pictures[row]
    text = caption_text(Caption(things=(Thing(picture.name),), style=picture.style))
    return EvalPrompt(text, row, style=picture.style)


def _colour_prompt(data: EvalData, row: int, colour: str, background: str | None = None) -> EvalPrompt:
    name = without_colour(data.pictures[row].name)
    text = caption_text(Caption(things=(Thing(name, colour),), background=background))
    return EvalPrompt(text, row, colour=colour, background=background)


def _colour_pairs() -> list[str]:
    """Every "COLOUR COLOUR" of a thing and its background that stand out from each other."""
    return [f"{own} {under}" for own in COLOUR_WORDS for under in _NOT_WHITE if _distance(own, under) > _MIN_CONTRAST]


def _first_rows(data: EvalData, concepts: Sequence[str]) -> list[int]:
    """The first row of every (concept, style) of ``concepts``."""
    first: dict[tuple[str, str], int] = {}
    for concept in concepts:
        for row in data.rows[concept]:
            first.setdefault((concept, data.pictures[row].style), row)
    return list(first.values())


def _emoji_rows(data: EvalData, concept: str) -> list[int]:
    return [row for row in data.rows[concept] if data.pictures[row].style in EMOJI_STYLES]


def _recolourable_rows(data: EvalData) -> list[int]:
    """One row for each evaluation concept of which at least half the emoji images have a dominant colour."""
    chosen = []
    for concept in data.split.concepts:
        rows = _emoji_rows(data, concept)
        fit = [row for row in rows if data.canvas.tones[row, 3].item() >= MIN_SHARE]
        if 2 * len(fit) >= len(rows) and not has_colour(without_colour(data.pictures[rows[0]].name)):
            chosen.append(min(fit, key=lambda r: _row_hash(data, "colour", r)))
    return chosen


def _shuffled(items: Iterable[Item], *of: str) -> list[Item]:
    return sorted(items, key=lambda item: stable_hash(*of, str(item)))


def _row_hash(data: EvalData, purpose: str, row: int) -> float:
    """A stable hash of the picture, not of its position in the corpus."""
    picture = data.pictures[row]
    return stable_hash(purpose, picture.concept, picture.style, picture.svg)


def _distance(one: str, other: str) -> float:
    """OKLab distance of two colour words."""
    return math.dist(oklab(*COLOURS[one]), oklab(*COLOURS[other]))
