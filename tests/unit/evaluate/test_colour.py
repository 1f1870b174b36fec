import pytest
import torch

from diffuscope.data.palette import COLOURS, WORDS
from diffuscope.evaluate.colour import background_word, thing, thing_word

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
    assert WORDS[background_word(shown)[0]] == outside
    assert WORDS[thing_word(shown)[0]] == inside


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_found_as_a_background(word):
    assert WORDS[background_word(picture("red", word))[0]] == word


def test_a_few_odd_pixels_at_the_border_change_nothing():
    shown = picture("red", "blue")
    shown[:, :, 0, :20] = 255
    assert WORDS[background_word(shown)[0]] == "blue"


def test_a_hole_of_the_backgrounds_colour_belongs_to_the_thing():
    shown = picture("red", "white")
    shown[:, :, 28:36, 28:36] = 250
    mask = thing(shown)
    assert mask[0, 16:48, 16:48].all()
    assert mask.sum() == 32 * 32


def test_a_gap_lets_the_background_in():
    shown = picture("red", "white")
    shown[:, :, 20:24, 16:40] = 250
    assert not thing(shown)[0, 20:24, 16:40].any()


def test_an_empty_picture_has_no_thing():
    assert thing_word(picture("white", "white")).item() == -1


def test_pictures_are_judged_each_by_itself():
    shown = torch.cat([picture(*pair) for pair in CONTRASTS])
    assert thing_word(shown, chunk=2).tolist() == [thing_word(picture(*pair)).item() for pair in CONTRASTS]
