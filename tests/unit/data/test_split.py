from collections import defaultdict

from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.split import colour_key, has_colour, split, stable_hash

CONCEPTS = 400


def many() -> Corpus:
    return Corpus(
        tuple(
            Picture(style, f"thing {i}", (), "objects", f"thing-{i}", "<svg/>")
            for i in range(CONCEPTS)
            for style in (EMOJI_STYLES if i % 2 else EMOJI_STYLES[:3])
        )
    )


def test_about_one_in_twenty_and_never_a_whole_concept():
    chosen = split(many())
    held = defaultdict(set)
    for concept, style in chosen.styles:
        held[concept].add(style)
    pairs = CONCEPTS // 2 * len(EMOJI_STYLES)
    assert 0.03 < len(chosen.styles) / pairs < 0.07
    assert all(len(styles) < len(EMOJI_STYLES) for styles in held.values())
    assert all(int(concept.removeprefix("thing-")) % 2 for concept in held)  # only those in four styles or more
    assert 0.04 < len(chosen.colours) / (CONCEPTS * 12) < 0.06


def test_the_order_of_the_corpus_does_not_matter():
    chosen = split(many())
    again = split(Corpus(many().pictures[::-1]))
    assert again == chosen
    assert again.hash == chosen.hash
    assert split(Corpus(many().pictures[:-40])).hash != chosen.hash


def test_evaluation_concepts_have_enough_styles():
    assert len(split(many()).concepts) == CONCEPTS // 2


def test_a_concept_that_exists_in_a_colour_keeps_it(corpus):
    chosen = split(corpus)
    assert not {("red", "apple"), ("green", "apple")} & chosen.colours


def test_colour_words_in_names():
    assert colour_key("red apple") == colour_key("green apple") == "apple"
    assert colour_key("orange") == "orange"
    assert has_colour("man with red hair")
    assert not has_colour("redwood")


def test_the_hash_is_stable():
    assert stable_hash("style", "fox", "noto") == stable_hash("style", "fox", "noto")
    assert 0 <= stable_hash("a") < 1
    assert stable_hash("ab", "c") != stable_hash("a", "bc")
