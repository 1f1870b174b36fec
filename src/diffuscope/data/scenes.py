"""Scenes: which sprites stand where, in which colours, and two captions that say so. Numbers only; no pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffuscope.data.captions import COUNTS, PLACES, PREFIXES, Caption, Thing, say
from diffuscope.data.catalogue import Catalogue, Sprite, Weighted
from diffuscope.data.palette import COLOURS, SHARE, WORDS, oklab
from diffuscope.data.processes import in_order
from diffuscope.errors import InputError

SLOTS = 4
"""Most sprites in one scene."""

FORMS = {
    "plain": 0.24,
    "background": 0.12,
    "colour": 0.14,
    "both": 0.12,
    "pair": 0.14,
    "count": 0.08,
    "place": 0.07,
    "tags": 0.09,
}
"""Form of a captioned scene -> how often it is drawn."""

_CHUNK = 4096
_WORD = 0.18  # how often one of the telling tags stands for the name
_FORM = Weighted(tuple(FORMS), tuple(FORMS.values()))
_PREFIX = Weighted(PREFIXES, (0.3, 0.4, 0.1, 0.1, 0.1))
_WHITE = WORDS.index("white")
_OKLAB = tuple(oklab(*rgb) for rgb in COLOURS.values())
_TOO_NEAR = 0.2  # OKLab distance under which a picture is lost on its background


@dataclass(slots=True)
class Scenes:
    """N scenes as arrays, one row each; up to four sprites, drawn in order."""

    sprite: NDArray[np.int32]
    """[N,4] place in the corpus, -1 for none; the used ones come first."""
    x: NDArray[np.float32]
    """[N,4] centre, in widths of the canvas from its left edge."""
    y: NDArray[np.float32]
    """[N,4] centre, from the top."""
    size: NDArray[np.float32]
    """[N,4] side, in widths of the canvas."""
    colour: NDArray[np.int8]
    """[N,4] index of the colour word, -1 as it is."""
    mirror: NDArray[np.bool_]
    """[N,4] left and right exchanged."""
    background: NDArray[np.uint8]
    """[N,3] sRGB."""
    captions: list[tuple[str, str]] = field(default_factory=list)
    """Two each; empty for scenes without words."""

    def __len__(self) -> int:
        return len(self.sprite)

    def take(self, index: slice | Sequence[int] | NDArray[np.int64]) -> "Scenes":
        """The scenes at ``index``."""
        rows = np.arange(len(self))[index]
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Scenes(**arrays, captions=[self.captions[i] for i in rows] if self.captions else [])


_ARRAYS = tuple(f.name for f in fields(Scenes) if f.name != "captions")


def blank(count: int) -> Scenes:
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


def joined(parts: Sequence[Scenes]) -> Scenes:
    """All scenes of ``parts``, one after the other."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return Scenes(**arrays, captions=[caption for part in parts for caption in part.captions])


@dataclass(slots=True)
class Placed:
    """One sprite of a scene while it is drawn."""

    sprite: Sprite
    x: float = 0.5
    y: float = 0.5
    size: float = 1.0
    colour: int = -1
    mirror: bool = False

    def thing(self, random: Random, *, words: bool = True) -> Thing:
        """How a caption calls it: by name or, sometimes, by a tag that tells."""
        sprite = self.sprite
        if words and sprite.words and random.random() < _WORD:
            name = sprite.words[int(random.random() * len(sprite.words))]
        else:
            name = sprite.name if self.colour < 0 else sprite.bare
        return Thing(name, None if self.colour < 0 else WORDS[self.colour])


@dataclass(slots=True)
class Scene:
    """One scene while it is drawn."""

    placed: list[Placed]
    background: tuple[int, int, int] = (255, 255, 255)
    captions: tuple[str, str] | None = None


def draw_scenes(
    stock: Catalogue,
    count: int,
    seed: int,
    *,
    kind: Literal["text", "vae"] = "text",
    processes: int | None = None,
) -> Scenes:
    """``count`` random scenes. Scene i depends on ``seed`` and i alone, whatever the number of processes.

    Args:
        stock: what they are drawn from.
        count: how many scenes.
        seed: any integer of at least 0.
        kind: "text" draws captioned scenes, "vae" denser ones without captions, half of them on coloured backgrounds.
        processes: how many to use; None is one per core.

    Returns:
        The scenes, in order.

    Raises:
        InputError: ``count`` or ``seed`` is too small.
    """
    if count < 1 or seed < 0:
        raise InputError(f"count {count}, seed {seed}; give a count of at least 1 and a seed of at least 0")
    spans = [(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    return joined(list(in_order(partial(_draw_span, stock, kind, seed), spans, processes)))


def _draw_span(stock: Catalogue, kind: str, seed: int, span: tuple[int, int]) -> Scenes:
    draw = draw_text_scene if kind == "text" else draw_vae_scene
    out = blank(span[1] - span[0])
    for row, index in enumerate(range(*span)):
        scene = draw(stock, Random((seed << 48) + index))
        out.background[row] = scene.background
        for slot, placed in enumerate(scene.placed):
            out.sprite[row, slot] = placed.sprite.row
            out.x[row, slot], out.y[row, slot], out.size[row, slot] = placed.x, placed.y, placed.size
            out.colour[row, slot], out.mirror[row, slot] = placed.colour, placed.mirror
        if scene.captions is not None:
            out.captions.append(scene.captions)
    return out


def draw_vae_scene(stock: Catalogue, random: Random) -> Scene:
    """One to four sprites anywhere, some recoloured, on white or on any colour."""
    count = Weighted((1, 2, 3, 4), (0.72, 0.14, 0.08, 0.06)).draw(random)
    placed = []
    for _ in range(count):
        coloured = random.random() < 0.3
        item = Placed((stock.coloured if coloured else stock.every).draw(random).draw(random))
        if coloured:
            item.colour = _pick(random, item.sprite.colours)
        if count > 1 or random.random() < 0.5:
            item.size = random.uniform(0.25, 0.7) if count > 1 else random.uniform(0.4, 1.1)
            item.x, item.y = _inside(random, item.size), _inside(random, item.size)
        item.mirror = item.sprite.mirror and random.random() < 0.5
        placed.append(item)
    red, green, blue = (int(random.random() * 256) for _ in range(3))
    return Scene(placed, (255, 255, 255) if random.random() < 0.5 else (red, green, blue))


def draw_text_scene(stock: Catalogue, random: Random) -> Scene:
    """One scene of a random form, with two captions."""
    form = _FORM.draw(random)
    if form == "pair":
        return _pair(stock, random)
    if form == "count":
        return _count(stock, random)
    coloured = form in ("colour", "both") or (form in ("count", "place") and random.random() < 0.15)
    item = _placed(stock, random, coloured=coloured, on_colour=form == "both")
    size = place = None
    if form == "place":
        size, place = _place(item, random)
    elif random.random() < 0.2:
        item.size = random.uniform(0.72, 1.0)
        item.x, item.y = _inside(random, item.size), _inside(random, item.size)
    named = form in ("background", "both") or (form == "place" and random.random() < 0.2)
    background = _background(random, [item]) if named else None

    def caption() -> str:
        tags = item.sprite.tags
        if form == "tags" and len(tags) >= 2:
            things = tuple(Thing(tag) for tag in random.sample(tags, 2 + (len(tags) > 2 and random.random() < 0.6)))
            return say(Caption(things=things, tags=True, style=_style(item, random)))
        things = (item.thing(random),)
        if form == "tags" and item.sprite.words:
            things = (Thing(_pick(random, item.sprite.words)),)
        return say(
            Caption(
                things=things,
                prefix=_PREFIX.draw(random),
                size=size,
                place=place,
                background=background,
                style=_style(item, random),
            )
        )

    return Scene([item], _rgb(background), (caption(), caption()))


def _pair(stock: Catalogue, random: Random) -> Scene:
    first = _placed(stock, random, coloured=random.random() < 0.25)
    second = _placed(stock, random, coloured=random.random() < 0.25, style=first.sprite.style)
    across = random.random() < 0.6
    for item, near in ((first, 0.26), (second, 0.74)):
        item.size = random.uniform(0.42, 0.5)
        along, other = near + random.uniform(-0.01, 0.01), 0.5 + random.uniform(-0.03, 0.03)
        item.x, item.y = (along, other) if across else (other, along)
    background = _background(random, [first, second]) if random.random() < 0.25 else None

    def caption() -> str:
        things = (first.thing(random, words=False), second.thing(random, words=False))
        forms = ("side by side", "on the left of", "on the right of") if across else ("above", "below")
        relation = forms[int(random.random() * len(forms))]
        if relation in ("on the right of", "below"):
            things = (things[1], things[0])
        return say(Caption(things=things, relation=relation, background=background, style=_style(first, random)))

    return Scene([first, second], _rgb(background), (caption(), caption()))


def _count(stock: Catalogue, random: Random) -> Scene:
    first = _placed(stock, random, coloured=random.random() < 0.25)
    first.mirror = False
    count = Weighted(tuple(COUNTS), (0.4, 0.35, 0.25)).draw(random)
    spots = {
        2: ((0.26, 0.5), (0.74, 0.5)),
        3: ((0.5, 0.27), (0.26, 0.73), (0.74, 0.73))
        if random.random() < 0.5
        else ((0.18, 0.5), (0.5, 0.5), (0.82, 0.5)),
        4: ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
    }[count]
    size = random.uniform(0.28, 0.31) if spots[0][0] == 0.18 else random.uniform(0.4, 0.46)
    placed = [Placed(first.sprite, x, y, size, first.colour) for x, y in spots]
    background = _background(random, placed) if random.random() < 0.2 else None

    def caption() -> str:
        thing = first.thing(random, words=False)
        return say(Caption(things=(thing,), count=count, background=background, style=_style(first, random)))

    return Scene(placed, _rgb(background), (caption(), caption()))


def _place(item: Placed, random: Random) -> tuple[str | None, str | None]:
    """Move ``item`` somewhere; returns the words for its size and place."""
    if random.random() < 0.3:
        item.size = random.uniform(1.1, 1.25)
        return "huge", None
    item.size = random.uniform(0.25, 0.34)
    place = int(random.random() * len(PLACES))
    near = item.size / 2 + random.uniform(0.02, 0.06)
    item.x, item.y = ((near, near), (1 - near, near), (near, 1 - near), (1 - near, 1 - near), (0.5, 0.5))[place]
    return "tiny", PLACES[place]


def _placed(
    stock: Catalogue, random: Random, *, coloured: bool, style: str | None = None, on_colour: bool = False
) -> Placed:
    """A random sprite, in ``style`` if the concepts drawn have it; white only ``on_colour``."""
    choice = stock.coloured if coloured else stock.every
    for _ in range(8):
        concept = choice.draw(random)
        sprite = concept.draw(random)
        matching = [one for one in concept.items if one.style == style]
        if style is None or matching:
            break
    if style is not None and matching:
        sprite = matching[int(random.random() * len(matching))]
    colour = _pick(random, sprite.colours) if coloured else -1
    if colour == _WHITE and not on_colour:
        colour = -1
    return Placed(sprite, colour=colour, mirror=sprite.mirror and random.random() < 0.15)


def _background(random: Random, placed: list[Placed]) -> str | None:
    """A colour word on which every sprite can be seen; None if there is none."""
    fitting = [i for i in range(len(WORDS)) if all(_contrast(item, i) > _TOO_NEAR for item in placed)]
    return WORDS[_pick(random, fitting)] if fitting else None


def _contrast(item: Placed, background: int) -> float:
    """OKLab distance between the leading colour of ``item`` and a background; 1 where no colour leads."""
    light, chroma, hue, share = item.sprite.tone
    if item.colour >= 0:
        return math.dist(_OKLAB[item.colour], _OKLAB[background])
    if share < SHARE:
        return 1.0
    return math.dist((light, chroma * math.cos(hue), chroma * math.sin(hue)), _OKLAB[background])


def _inside(random: Random, size: float) -> float:
    """A centre such that a sprite of ``size`` stays on the canvas, or covers it."""
    room = abs(1 - size) / 2
    return random.uniform(0.5 - room, 0.5 + room)


def _style(item: Placed, random: Random) -> str | None:
    return item.sprite.style if random.random() < item.sprite.named else None


def _rgb(colour: str | None) -> tuple[int, int, int]:
    return (255, 255, 255) if colour is None else COLOURS[colour]


def _pick(random: Random, items: Sequence[Any]) -> Any:
    return items[int(random.random() * len(items))]
