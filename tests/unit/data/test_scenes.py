import numpy as np
import pytest

from caption_parser import CaptionParser
from diffuscope.data.captions import caption_text
from diffuscope.data.palette import COLOUR_WORDS, COLOURS
from diffuscope.data.processes import available_cores
from diffuscope.data.scenes import Scenes, concatenate, sample_scenes
from diffuscope.data.split import Split, colour_key, without_colour
from diffuscope.data.sprites import sprite_sampler
from refusals import refused

HELD = Split(frozenset({("fox", "noto"), ("elephant", "twemoji")}), frozenset({("blue", "fox"), ("pink", "apple")}), ())
COUNT = 3000


@pytest.fixture(scope="module")
def scenes(corpus, tones, recolourable) -> Scenes:
    return sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable), COUNT, seed=5, processes=1)


@pytest.fixture(scope="module")
def vae(corpus, tones, recolourable) -> Scenes:
    return sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable), COUNT, seed=1, kind="vae", processes=1)


@pytest.fixture(scope="module")
def reader(corpus) -> CaptionParser:
    names = {name for p in corpus.pictures for name in (p.name, without_colour(p.name), *p.tags)}
    return CaptionParser(names)


def test_every_caption_can_be_read_back(scenes, reader):
    for pair in scenes.captions:
        for text in pair:
            caption = reader.parse(text)
            assert caption is not None, text
            assert caption_text(caption) == text


def test_captions_say_what_the_scene_holds(scenes, reader, corpus):
    for row, pair in enumerate(scenes.captions):
        for text in pair:
            caption = reader.parse(text)
            rgb = tuple(scenes.background[row])
            assert rgb == (COLOURS[caption.background] if caption.background else (255, 255, 255)), text
            used = scenes.sprite[row][scenes.sprite[row] >= 0]
            styles = {corpus.pictures[i].style for i in used}
            assert caption.style is None or caption.style in styles
            assert caption.style is not None or "game icon" not in {corpus.pictures[used[0]].style}
            assert len(used) == (2 if caption.relation else caption.count)
            colours = {COLOUR_WORDS[c] for c in scenes.colour[row] if c >= 0}
            said = {thing.colour for thing in caption.things if thing.colour} | {
                word for thing in caption.things for word in thing.name.split() if word in COLOUR_WORDS
            }
            assert colours <= said, text


def test_left_is_left_and_above_is_above(scenes, reader, corpus):
    seen = set()
    for row, (text, _) in enumerate(scenes.captions):
        caption = reader.parse(text)
        if caption.relation is None or caption.things[0].name == caption.things[1].name:
            continue
        first, second = (thing.name for thing in caption.things)
        shown = [corpus.pictures[i] for i in scenes.sprite[row, :2]]
        slots = [{without_colour(picture.name), *picture.also} for picture in shown]
        if slots[0] & slots[1]:
            continue
        a, b = (next(i for i in (0, 1) if without_colour(name) in slots[i]) for name in (first, second))
        axis, sign = (scenes.y, 1) if caption.relation in ("above", "below") else (scenes.x, 1)
        if caption.relation in ("on the right of", "below"):
            sign = -1
        assert sign * (axis[row, b] - axis[row, a]) > 0.3, text
        seen.add(caption.relation)
    assert len(seen) == 5


def test_what_is_held_out_is_never_drawn(corpus, tones, recolourable, scenes, vae):
    def pairs(drawn: Scenes) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        styles, colours = set(), set()
        for sprite, colour in zip(drawn.sprite.ravel(), drawn.colour.ravel(), strict=True):
            if sprite >= 0:
                picture = corpus.pictures[sprite]
                styles.add((picture.concept, picture.style))
                if colour >= 0:
                    colours.add((COLOUR_WORDS[colour], colour_key(picture.name)))
        return styles, colours

    for drawn in (scenes, vae):
        styles, colours = pairs(drawn)
        assert not styles & HELD.styles
        assert not colours & HELD.colours
    styles, colours = pairs(
        sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable, train=False), COUNT, seed=5, processes=1)
    )
    assert styles > HELD.styles
    assert colours > HELD.colours


def test_counted_things_stand_apart_and_on_the_canvas(scenes, reader):
    """Each pair is further apart than a thing is wide, or high."""
    counted = [i for i, (text, _) in enumerate(scenes.captions) if reader.parse(text).count > 1]
    for row in counted:
        used = scenes.sprite[row] >= 0
        x, y, size = (values[row][used] for values in (scenes.x, scenes.y, scenes.size))
        apart = np.maximum(abs(x[:, None] - x), abs(y[:, None] - y)) + 9 * np.eye(len(x))
        assert (apart > 1.05 * size).all()
        assert (np.minimum(x, y) > size / 2).all()
        assert (np.maximum(x, y) < 1 - size / 2).all()


def test_some_captions_have_three_attributes(scenes, reader):
    def attributes(text: str) -> int:
        caption = reader.parse(text)
        named = (caption.style, caption.background, caption.place or caption.size, caption.things[0].colour)
        return sum(value is not None for value in named) if caption.count == 1 and len(caption.things) == 1 else 0

    assert 0.05 < np.mean([attributes(pair[0]) >= 3 for pair in scenes.captions]) < 0.2


def test_an_icon_is_drawn_as_the_thing_that_it_shows(corpus, tones, recolourable, scenes):
    """A fox head as "a fox, game icon style", unless that pair, or a fox of that colour, is held out."""
    head = next(i for i, p in enumerate(corpus.pictures) if p.name == "fox head")

    def captions(drawn: Scenes) -> list[str]:
        shown = (drawn.sprite[:, 0] == head) & (drawn.sprite[:, 1] < 0)
        return [text for i in np.flatnonzero(shown) for text in drawn.captions[i]]

    said = captions(scenes)
    assert any(text == "a fox, game icon style" for text in said)
    assert any("fox head" in text for text in said)
    assert not any("blue fox" in text and "blue fox head" not in text for text in said)
    held = Split(frozenset({("fox", "game icon")}), frozenset(), ())
    again = captions(sample_scenes(sprite_sampler(corpus, held, tones, recolourable), COUNT, seed=5, processes=1))
    assert again
    assert all("fox head" in text for text in again if not text.count(", ") > 1)


def test_every_form_and_colour_occurs(scenes, reader):
    read = [reader.parse(text) for pair in scenes.captions for text in pair]
    assert {c.count for c in read} == set(range(1, 10))
    assert {c.background for c in read} == {None, *COLOUR_WORDS}
    assert {thing.colour for c in read for thing in c.things} == {None, *COLOUR_WORDS}
    both = sum(c.background is not None and any(t.colour for t in c.things) for c in read) / len(read)
    assert 0.08 < both < 0.2
    assert any(thing.name == "puppy" for c in read for thing in c.things)


def test_a_colour_is_given_only_where_it_can_be_seen(corpus, tones, recolourable):
    """No sprite may become green: it occurs with the real table and never with this one."""
    green = COLOUR_WORDS.index("green")
    less = recolourable.copy()
    less[:, green] = False
    for allowed, found in ((recolourable, True), (less, False)):
        drawn = sample_scenes(sprite_sampler(corpus, HELD, tones, allowed), 1000, seed=5, processes=1)
        assert (drawn.colour == green).any() == found
        assert (drawn.colour >= 0).any()


def test_white_things_do_not_stand_on_white(scenes):
    white = (scenes.colour == COLOUR_WORDS.index("white")).any(1)
    assert not (white & (scenes.background == 255).all(1)).any()


def test_flags_are_not_mirrored(corpus, vae):
    assert vae.mirror.any()
    flags = [i for i, p in enumerate(corpus.pictures) if p.group == "flags"]
    assert np.isin(vae.sprite, flags).any()
    assert not vae.mirror[np.isin(vae.sprite, flags)].any()


def test_half_of_the_vae_scenes_are_coloured(vae):
    assert vae.captions == []
    assert 0.45 < (vae.background != 255).any(1).mean() < 0.55


def test_scene_i_depends_on_seed_and_i_alone(corpus, tones, recolourable, monkeypatch):
    """Whatever their number, and whichever process draws it."""
    monkeypatch.setattr("diffuscope.data.scenes._CHUNK", 40)

    def drawn(count: int, processes: int) -> Scenes:
        return sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable), count, seed=9, processes=processes)

    long, short = drawn(100, 2), drawn(60, 1)
    for name in ("sprite", "x", "y", "size", "colour", "mirror", "background"):
        np.testing.assert_array_equal(getattr(long, name)[:60], getattr(short, name))
    assert long.captions[:60] == short.captions
    other = sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable), 100, seed=10, processes=1)
    assert other.captions != long.captions[:100]


def test_take_and_join(scenes):
    again = concatenate([scenes.take(slice(0, 10)), scenes.take(np.arange(10, COUNT))])
    np.testing.assert_array_equal(again.sprite, scenes.sprite)
    assert again.captions == scenes.captions
    assert len(scenes.take([3, 1])) == 2
    assert scenes.take([3, 1]).captions == [scenes.captions[3], scenes.captions[1]]


def test_bad_arguments(corpus, tones, recolourable):
    with refused("tones"):
        sprite_sampler(corpus, HELD, tones[1:], recolourable)
    with refused("recolourable"):
        sprite_sampler(corpus, HELD, tones, recolourable[1:])
    with refused("count", 0):
        sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable), 0, seed=1)
    with refused("seed", -1):
        sample_scenes(sprite_sampler(corpus, HELD, tones, recolourable), 4, seed=-1)


def test_processes_share_the_cores(monkeypatch):
    """Two that torchrun started take half each, and one is left where there are more processes than cores."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = available_cores()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert available_cores() == max(1, alone // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(alone + 1))
    assert available_cores() == 1
