import pytest

from caption_parser import CaptionParser
from diffuscope.data.captions import Caption, Thing, article, caption_text, plural

NAMES = (
    "apple",
    "red apple",
    "fox",
    "hourglass",
    "grapes",
    "slice of pizza",
    "puppy",
    "fork and knife",
    "flag of France",
    "bus",
)

CASES = [
    ("fox", Caption(things=(Thing("fox"),), prefix="")),
    ("a fox", Caption(things=(Thing("fox"),))),
    ("a picture of a fox, noto style", Caption(things=(Thing("fox"),), prefix="a picture of a", style="noto")),
    ("an emoji of an apple", Caption(things=(Thing("apple"),), prefix="an emoji of a")),
    ("an icon of grapes", Caption(things=(Thing("grapes"),), prefix="an icon of a")),
    ("a blue puppy, fluent 3d style", Caption(things=(Thing("puppy", "blue"),), style="fluent 3d")),
    ("an orange fox on a blue background", Caption(things=(Thing("fox", "orange"),), background="blue")),
    ("a fox on an orange background, game icon style",
     Caption(things=(Thing("fox"),), background="orange", style="game icon")),
    ("a fox and an apple side by side",
     Caption(things=(Thing("fox"), Thing("apple")), relation="side by side")),
    ("fork and knife and a fox side by side", None),
    ("a fork and knife and a red fox side by side on a pink background",
     Caption(things=(Thing("fork and knife"), Thing("fox", "red")), relation="side by side", background="pink")),
    ("a green fox on the left of grapes",
     Caption(things=(Thing("fox", "green"), Thing("grapes")), relation="on the left of")),
    ("a fox above a bus, blob style", Caption(things=(Thing("fox"), Thing("bus")), relation="above", style="blob")),
    ("three blue slices of pizza", Caption(things=(Thing("slice of pizza", "blue"),), count=3)),
    ("two buses on a black background", Caption(things=(Thing("bus"),), count=2, background="black")),
    ("a tiny fox in the top left corner", Caption(things=(Thing("fox"),), size="tiny", place="in the top left corner")),
    ("huge fox", Caption(things=(Thing("fox"),), size="huge", prefix="")),
    ("a tiny yellow apple in the middle on a gray background",
     Caption(things=(Thing("apple", "yellow"),), size="tiny", place="in the middle", background="gray")),
    ("fox, puppy, twemoji style", Caption(things=(Thing("fox"), Thing("puppy")), tags=True, style="twemoji")),
    ("a red apple", Caption(things=(Thing("red apple"),))),
    ("a purple cow", None),
    ("an fox", None),
    ("two fox", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "caption"), CASES, ids=[text for text, _ in CASES])
def test_reading_is_the_inverse_of_saying(text, caption):
    assert CaptionParser(NAMES).parse(text) == caption
    if caption is not None:
        assert caption_text(caption) == text


@pytest.mark.parametrize(
    ("one", "many"),
    [("cherry", "cherries"), ("fox", "foxes"), ("dog face", "dog faces"), ("slice of pizza", "slices of pizza"),
     ("fireman", "firemen"), ("woman", "women"), ("computer mouse", "computer mice"),
     ("tropical fish", "tropical fish"),
     ("grapes", "grapes"), ("cactus", "cactuses"), ("men wrestling", "men wrestling"), ("tomato", "tomatoes"),
     ("man with red hair", "men with red hair"), ("key", "keys"), ("flag of France", "flags of France")],
)  # fmt: skip
def test_plurals(one, many):
    assert plural(one) == many


@pytest.mark.parametrize(
    ("words", "which"),
    [("apple", "an"), ("unicorn", "a"), ("hourglass", "an"), ("horse", "a"), ("umbrella", "an"), ("UFO", "a"),
     ("orange bus", "an"), ("one o'clock", "a"), ("X-ray", "an"), ("ewe", "a")],
)  # fmt: skip
def test_articles(words, which):
    assert article(words) == which
