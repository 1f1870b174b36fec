"""Scenes as arrays of numbers, without pixels: sprites, positions, colours, and two captions for each scene."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffuscope.data.captions import COUNTS, PLACES, PREFIXES, Caption, Thing, caption_text, is_plural
from diffuscope.data.layouts import LAYOUTS, grid
from diffuscope.data.palette import COLOUR_WORDS, COLOURS, MIN_SHARE, oklab
from diffuscope.data.processes import parallel_map
from diffuscope.data.sprites import Sprite, SpriteSampler, WeightedChoice
from diffuscope.errors import InputError

SLOTS = 9
"""Largest number of sprites in a scene."""

FORMS = {
    "plain": 0.22,
    "background": 0.09,
    "colour": 0.11,
    "both": 0.10,
    "several": 0.10,
    "pair": 0.12,
    "count": 0.14,
    "place": 0.05,
    "tags": 0.07,
}
"""Form of a captioned scene -> its probability."""

_CHUNK = 4096
_OTHER_NAME = 0.18  # probability that another name replaces the name
_COUNT = WeightedChoice(tuple(COUNTS), (0.16, 0.14, 0.13, 0.13, 0.11, 0.11, 0.11, 0.11))
_FILLED = (0.84, 0.93)  # size of a counted thing, in distances between two
_FORM = WeightedChoice(tuple(FORMS), tuple(FORMS.values()))
_PREFIX = WeightedChoice(PREFIXES, (0.3, 0.4, 0.1, 0.1, 0.1))
_WHITE = COLOUR_WORDS.index("white")
_OKLAB = tuple(oklab(*rgb) for rgb in COLOURS.values())
_MIN_CONTRAST = 0.2  # smallest OKLab distance of a sprite from its background


@dataclass(slots=True)
class Scenes:
    """N scenes as arrays, one row each; up to nine sprites, drawn in order."""

    sprite: NDArray[np.int32]
    """[N,9] index in the corpus, -1 for an empty slot; empty slots come last."""
    x: NDArray[np.float32]
    """[N,9] centre, in widths of the canvas from its left edge."""
    y: NDArray[np.float32]
    """[N,9] centre, from the top."""
    size: NDArray[np.float32]
    """[N,9] side, in widths of the canvas."""
    colour: NDArray[np.int8]
    """[N,9] index of the colour word to recolour to, -1 for the original colours."""
    mirror: NDArray[np.bool_]
    """[N,9] flipped left to right."""
    background: NDArray[np.uint8]
    """[N,3] sRGB."""
    captions: list[tuple[str, str]] = field(default_factory=list)
    """Two for each scene; empty for scenes without captions."""

    def __len__(self) -> int:
        return len(self.sprite)

    def take(self, index: slice | Sequence[int] | NDArray[np.int64]) -> "Scenes":
        """The scenes at ``index``."""
        rows = np.arange(len(self))[index]
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Scenes(**arrays, captions=[self.captions[i] for i in rows] if self.captions else [])


_ARRAYS = tuple(f.name for f in fields(Scenes) if f.name != "captions")


def blank_scenes(count: int) -> Scenes:
    """``count`` empty white scenes without captions."""
    ones = (count, SLOTS)
    return Scenes(
        np.full(ones, -1, np.int32),
        np.full(ones, 0.5, np.float32),
        np.full(ones, 0.5, np.float32),
        np.ones(ones, np.float32),
        np.full(ones, -1, np.int8),
        np.zeros(ones, np.bool_),
        np.full((count, 3), 255, np.uint8),
    )


def concatenate(parts: Sequence[Scenes]) -> Scenes:
    """All scenes of ``parts``, one after the other."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return Scenes(**arrays, captions=[caption for part in parts for caption in part.captions])


@dataclass(slots=True)
class PlacedSprite:
    """One sprite of a scene."""

    sprite: Sprite
    x: float = 0.5
    y: float = 0.5
    size: float = 1.0
    colour: int = -1
    mirror: bool = False

    def thing(self, random: Random, *, other_names: bool = True) -> Thing:
        """Its noun in a caption: the name or, sometimes, another name."""
        sprite = self.sprite
        if other_names and sprite.other_names and random.random() < _OTHER_NAME:
            name = _choose(random, sprite.other_names)
        else:
            name = sprite.name if self.colour < 0 else sprite.plain_name
        return Thing(name, None if self.colour < 0 else COLOUR_WORDS[self.colour])


@dataclass(slots=True)
class Scene:
    """One scene, before it becomes a row of ``Scenes``."""

    placed: list[PlacedSprite]
    background: tuple[int, int, int] = (255, 255, 255)
    captions: tuple[str, str] | None = None


def sample_scenes(
    sampler: SpriteSampler,
    count: int,
    seed: int,
    *,
    kind: Literal["text", "vae"] = "text",
    processes: int | None = None,
) -> Scenes:
    """``count`` random scenes. Scene i depends on ``seed`` and i only, not on the number of processes.

    Args:
        sampler: of the sprites.
        count: how many scenes.
        seed: any integer of at least 0.
        kind: "text" for captioned scenes; "vae" for denser ones without captions, half of them on random colours.
        processes: number of processes; None is one per core.

    Raises:
        InputError: ``count`` is below 1, or ``seed`` below 0.
    """
    if count < 1:
        raise InputError("count", count, "at least 1")
    if seed < 0:
        raise InputError("seed", seed, "at least 0")
    spans = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    return concatenate(list(parallel_map(partial(_sample_span, sampler, kind, seed), spans, processes)))


def _sample_span(sampler: SpriteSampler, kind: str, seed: int, span: tuple[int, int]) -> Scenes:
    sample = sample_text_scene if kind == "text" else sample_vae_scene
    out = blank_scenes(span[1] - span[0])
    for row, index in enumerate(range(*span)):
        scene = sample(sampler, Random((seed << 48) + index))
        out.background[row] = scene.background
        for slot, placed in enumerate(scene.placed):
            out.sprite[row, slot] = placed.sprite.row
            out.x[row, slot], out.y[row, slot], out.size[row, slot] = placed.x, placed.y, placed.size
            out.colour[row, slot], out.mirror[row, slot] = placed.colour, placed.mirror
        if scene.captions is not None:
            out.captions.append(scene.captions)
    return out


def sample_vae_scene(sampler: SpriteSampler, random: Random) -> Scene:
    """One to four sprites anywhere, some recoloured, on white or on any colour."""
    count = WeightedChoice((1, 2, 3, 4), (0.72, 0.14, 0.08, 0.06)).sample(random)
    placed = []
    for _ in range(count):
        coloured = random.random() < 0.3
        item = PlacedSprite((sampler.recolourable if coloured else sampler.every).sample(random).sample(random))
        if coloured:
            item.colour = _choose(random, item.sprite.colours)
        if count > 1 or random.random() < 0.5:
            item.size = random.uniform(0.25, 0.7) if count > 1 else random.uniform(0.4, 1.1)
            item.x, item.y = _inside(random, item.size), _inside(random, item.size)
        item.mirror = item.sprite.mirror and random.random() < 0.5
        placed.append(item)
    red, green, blue = (int(random.random() * 256) for _ in range(3))
    return Scene(placed, (255, 255, 255) if random.random() < 0.5 else (red, green, blue))


def sample_text_scene(sampler: SpriteSampler, random: Random) -> Scene:
    """One scene of a random form, with two captions."""
    form = _FORM.sample(random)
    if form == "pair":
        return _pair(sampler, random)
    if form == "count":
        return _count(sampler, random)
    several = {"colour", "background", "place"}
    if form == "several":
        several.discard(random.choice(("", "colour", "background", "place")))
    coloured = form in ("colour", "both") or (form == "place" and random.random() < 0.15)
    coloured |= form == "several" and "colour" in several
    item = _place_sprite(sampler, random, coloured=coloured, on_colour=form == "both")
    size = place = None
    if form == "place" or (form == "several" and "place" in several):
        size, place = _move(item, random)
    elif random.random() < 0.2:
        item.size = random.uniform(0.72, 1.0)
        item.x, item.y = _inside(random, item.size), _inside(random, item.size)
    named = form in ("background", "both") or (form == "place" and random.random() < 0.2)
    named |= form == "several" and "background" in several
    background = _background(random, [item]) if named else None

    def caption() -> str:
        style = item.sprite.style if form == "several" else _style(item, random)
        tags = item.sprite.tags
        if form == "tags" and len(tags) >= 2:
            things = tuple(Thing(tag) for tag in random.sample(tags, 2 + (len(tags) > 2 and random.random() < 0.6)))
            return caption_text(Caption(things=things, tags=True, style=style))
        things = (item.thing(random),)
        if form == "tags" and item.sprite.other_names:
            things = (Thing(_choose(random, item.sprite.other_names)),)
        prefix = _PREFIX.sample(random)
        return caption_text(
            Caption(things=things, prefix=prefix, size=size, place=place, background=background, style=style)
        )

    return Scene([item], _rgb(background), (caption(), caption()))


def _pair(sampler: SpriteSampler, random: Random) -> Scene:
    first = _place_sprite(sampler, random, coloured=random.random() < 0.25)
    second = _place_sprite(sampler, random, coloured=random.random() < 0.25, style=first.sprite.style)
    across = random.random() < 0.6
    for item, near in ((first, 0.26), (second, 0.74)):
        item.size = random.uniform(0.42, 0.5)
        along, other = near + random.uniform(-0.01, 0.01), 0.5 + random.uniform(-0.03, 0.03)
        item.x, item.y = (along, other) if across else (other, along)
    background = _background(random, [first, second]) if random.random() < 0.25 else None

    def caption() -> str:
        things = (first.thing(random, other_names=False), second.thing(random, other_names=False))
        forms = ("side by side", "on the left of", "on the right of") if across else ("above", "below")
        relation = forms[int(random.random() * len(forms))]
        if relation in ("on the right of", "below"):
            things = (things[1], things[0])
        return caption_text(
            Caption(things=things, relation=relation, background=background, style=_style(first, random))
        )

    return Scene([first, second], _rgb(background), (caption(), caption()))


def _count(sampler: SpriteSampler, random: Random) -> Scene:
    coloured = random.random() < 0.25
    first = _place_sprite(sampler, random, coloured=coloured)
    for _ in range(8):
        if not is_plural(first.sprite.name):  # "paw prints" are two already
            break
        first = _place_sprite(sampler, random, coloured=coloured)
    first.mirror = False
    count = _COUNT.sample(random)
    gap, spots = grid(_choose(random, LAYOUTS[count]))
    size = gap * random.uniform(*_FILLED)
    placed = [PlacedSprite(first.sprite, x, y, size, first.colour) for x, y in spots]
    background = _background(random, placed) if random.random() < 0.2 else None

    def caption() -> str:
        thing = first.thing(random, other_names=False)
        return caption_text(Caption(things=(thing,), count=count, background=background, style=_style(first, random)))

    return Scene(placed, _rgb(background), (caption(), caption()))


def _move(item: PlacedSprite, random: Random) -> tuple[str | None, str | None]:
    """Move and scale ``item``; returns its size word and its position phrase."""
    if random.random() < 0.3:
        item.size = random.uniform(1.1, 1.25)
        return "huge", None
    item.size = random.uniform(0.25, 0.34)
    place = int(random.random() * len(PLACES))
    near = item.size / 2 + random.uniform(0.02, 0.06)
    item.x, item.y = ((near, near), (1 - near, near), (near, 1 - near), (1 - near, 1 - near), (0.5, 0.5))[place]
    return "tiny", PLACES[place]


def _place_sprite(
    sampler: SpriteSampler, random: Random, *, coloured: bool, style: str | None = None, on_colour: bool = False
) -> PlacedSprite:
    """A random sprite, in ``style`` if one of eight sampled concepts has it; recoloured to white only ``on_colour``."""
    choice = sampler.recolourable if coloured else sampler.every
    for _ in range(8):
        concept = choice.sample(random)
        sprite = concept.sample(random)
        matching = [one for one in concept.items if one.style == style]
        if style is None or matching:
            break
    if style is not None and matching:
        sprite = matching[int(random.random() * len(matching))]
    colour = _choose(random, sprite.colours) if coloured else -1
    if colour == _WHITE and not on_colour:
        colour = -1
    return PlacedSprite(sprite, colour=colour, mirror=sprite.mirror and random.random() < 0.15)


def _background(random: Random, placed: list[PlacedSprite]) -> str | None:
    """A colour word with enough contrast to every sprite; None if there is none."""
    fitting = [i for i in range(len(COLOUR_WORDS)) if all(_contrast(item, i) > _MIN_CONTRAST for item in placed)]
    return COLOUR_WORDS[_choose(random, fitting)] if fitting else None


def _contrast(item: PlacedSprite, background: int) -> float:
    """OKLab distance of the dominant colour of ``item`` from a background; 1 if no colour is dominant."""
    light, chroma, hue, share = item.sprite.tone
    if item.colour >= 0:
        return math.dist(_OKLAB[item.colour], _OKLAB[background])
    if share < MIN_SHARE:
        return 1.0
    return math.dist((light, chroma * math.cos(hue), chroma * math.sin(hue)), _OKLAB[background])


def _inside(random: Random, size: float) -> float:
    """A centre that keeps a sprite of ``size`` on the canvas, or the canvas covered."""
    room = abs(1 - size) / 2
    return random.uniform(0.5 - room, 0.5 + room)


def _style(item: PlacedSprite, random: Random) -> str | None:
    return item.sprite.style if random.random() < item.sprite.named else None


def _rgb(colour: str | None) -> tuple[int, int, int]:
    return (255, 255, 255) if colour is None else COLOURS[colour]


def _choose(random: Random, items: Sequence[Any]) -> Any:
    return items[int(random.random() * len(items))]
