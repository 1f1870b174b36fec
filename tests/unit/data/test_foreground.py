import pytest
import torch

from diffuscope.data.colours import dominant_tones
from diffuscope.data.foreground import background_word, foreground_mask, foreground_word, recolourable
from diffuscope.data.palette import COLOUR_WORDS, COLOURS, MIN_SHARE

CONTRASTS = [
    ("red", "white"),
    ("white", "blue"),
    ("black", "yellow"),
    ("gray", "purple"),
    ("brown", "cyan"),
    ("cyan", "white"),
]


def picture(inside: str, outside: str, side: int = 64) -> torch.Tensor:
    pixels = torch.tensor(COLOURS[outside], dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, side, side)
    pixels[:, :, 16:48, 16:48] = torch.tensor(COLOURS[inside], dtype=torch.uint8).view(3, 1, 1)
    return pixels


@pytest.mark.parametrize(("inside", "outside"), CONTRASTS)
def test_words_of_thing_and_background(inside, outside):
    shown = picture(inside, outside)
    assert COLOUR_WORDS[background_word(shown)[0]] == outside
    assert COLOUR_WORDS[foreground_word(shown)[0]] == inside


@pytest.mark.parametrize("word", COLOUR_WORDS)
def test_every_word_is_found_as_a_background(word):
    assert COLOUR_WORDS[background_word(picture("red", word))[0]] == word


def test_a_few_odd_pixels_at_the_border_change_nothing():
    shown = picture("red", "blue")
    shown[:, :, 0, :20] = 255
    assert COLOUR_WORDS[background_word(shown)[0]] == "blue"


def test_a_hole_of_the_backgrounds_colour_belongs_to_the_thing():
    shown = picture("red", "white")
    shown[:, :, 28:36, 28:36] = 250
    mask = foreground_mask(shown)
    assert mask[0, 16:48, 16:48].all()
    assert mask.sum() == 32 * 32


def test_a_gap_lets_the_background_in():
    shown = picture("red", "white")
    shown[:, :, 20:24, 16:40] = 250
    assert not foreground_mask(shown)[0, 20:24, 16:40].any()


def test_an_empty_picture_has_no_thing():
    assert foreground_word(picture("white", "white")).item() == -1


def test_pictures_are_judged_each_by_itself():
    shown = torch.cat([picture(*pair) for pair in CONTRASTS])
    assert foreground_word(shown, chunk=2).tolist() == [foreground_word(picture(*pair)).item() for pair in CONTRASTS]


def sprite(left: str, right: str, hole: int = 0, side: int = 64) -> torch.Tensor:
    """[1,4,side,side] uint8 RGBA: a square of two colours, with a transparent hole in its middle."""
    quarter = side // 4
    rgba = torch.zeros(1, 4, side, side, dtype=torch.uint8)
    for columns, word in ((slice(quarter, side // 2), left), (slice(side // 2, 3 * quarter), right)):
        rgba[0, :3, :, columns] = torch.tensor(COLOURS[word], dtype=torch.uint8).view(3, 1, 1)
    rgba[0, 3, quarter : 3 * quarter, quarter : 3 * quarter] = 255
    rgba[0, 3, side // 2 - hole : side // 2 + hole, side // 2 - hole : side // 2 + hole] = 0
    return rgba


def test_a_palm_takes_every_word_with_its_trunk():
    """Half green crown, half brown trunk: where the crown's colour alone would not lead, the trunk turns too."""
    palm = sprite("green", "brown")
    assert recolourable(palm, dominant_tones(palm)).all()


def test_a_thing_that_stays_gray_takes_no_colour():
    """A sixth of it is blue and turns, which is too little to lead."""
    bicycle = sprite("gray", "gray")
    bicycle[0, :3, 16:48, 16:21] = torch.tensor(COLOURS["blue"], dtype=torch.uint8).view(3, 1, 1)
    tone = dominant_tones(bicycle)
    tone[:, :3] = dominant_tones(sprite("blue", "blue"))[:, :3]
    assert recolourable(bicycle, tone)[0].nonzero()[:, 0].tolist() == [COLOUR_WORDS.index("gray")]


@pytest.mark.parametrize("word", ["red", "blue", "gray", "black"])
@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_thing_of_one_colour_takes_every_word(word, side):
    whole = sprite(word, word, side=side)
    assert recolourable(whole, dominant_tones(whole)).all()


def test_a_ring_is_as_white_as_the_paper_that_it_holds():
    ring = sprite("red", "red", hole=15)
    assert recolourable(ring, dominant_tones(ring))[0].nonzero()[:, 0].tolist() == [COLOUR_WORDS.index("white")]


def test_nothing_is_taken_where_no_colour_leads():
    many = torch.cat([sprite("red", "red"), sprite("red", "blue")])
    tones = dominant_tones(many)
    tones[1, 3] = 0.9 * MIN_SHARE
    found = recolourable(many, tones)
    assert found[0].all()
    assert not found[1].any()
    assert torch.equal(found, recolourable(many, tones, chunk=1))
