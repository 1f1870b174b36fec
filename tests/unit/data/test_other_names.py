import pytest

from diffuscope.data.other_names import Words, of_icon, of_tags

THINGS = frozenset({"wolf", "bear", "bat", "ice cream", "clock"})


@pytest.mark.parametrize(
    ("icon", "thing"),
    [("wolf head", "wolf"), ("wolf howl", "wolf"), ("wolf trap", None), ("polar bear", "bear"), ("bear", None),
     ("baseball bat", None), ("evil bat", "bat"), ("ice cream cone", "ice cream"), ("send mail clock", None)],
)  # fmt: skip
def test_the_thing_that_an_icon_shows(icon, thing):
    assert of_icon(icon, THINGS) == thing


def test_a_word_is_a_name_where_it_fits_best():
    emojis = [
        Words("dog face", "animals-nature", ("puppy", "nice"), ("puppy", "hound", "nine")),
        Words("paw prints", "animals-nature", ("nice",), ("track", "hound", "puppy")),
        Words("dog", "animals-nature", (), ("hound", "beast")),
        Words("wolf", "animals-nature", (), ("beast", "hound")),
        Words("pleading face", "smileys-emotion", ("puppy",), ("woe",)),
        Words("fox", "animals-nature", (), ("dog", "reynard")),
    ]
    also = of_tags(emojis)
    assert also["dog face"] == ("puppy", "nice")  # Unicode calls it a puppy; "nine" is a number
    assert also["dog"] == ("hound",)  # its first keyword, and the second of others
    assert also["wolf"] == ("beast",)
    assert also["fox"] == ("reynard",)  # "dog" is the name of another
    assert "puppy" not in also["paw prints"]
    assert "pleading face" not in also


def test_a_word_of_many_things_names_none():
    many = [Words(f"thing {i}", "objects", ("stuff",), ()) for i in range(6)]
    assert of_tags(many) == {}
