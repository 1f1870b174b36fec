"""Words that occur only as tags, and in no name of the corpus."""

import re
from collections import defaultdict

from diffuscope.data.corpus import Corpus
from diffuscope.data.packages import EMOJI_STYLES
from diffuscope.data.split import Split

TAG_WORDS = (
    "aeroplane", "ale", "arachnid", "beeper", "beers", "burger", "buttercup", "cab", "camcorder", "carriage",
    "chapel", "cheeseburger", "copter", "dinghy", "dromedary", "fir", "fishcake", "fishes", "flapjacks", "fuelpump",
    "funicular", "gasoline", "gemstone", "gondola", "gown", "grandstand", "grape", "handgun", "heels", "hen",
    "hotcake", "hotcakes", "housecat", "kitten", "kitty", "kiwifruit", "lollypop", "mandarin", "masjid",
    "medallion", "meteoroid", "mic", "minaret", "minivan", "moneybag", "motorbike", "pancake", "parasol", "parcel",
    "parchment", "petrol", "pho", "pickaxe", "pint", "puck", "pumps", "puppies", "puppy", "python", "racehorse",
    "railcar", "ramen", "reindeer", "rhino", "rosary", "ruby", "sapling", "sax", "skewer", "sneaker", "sneakers",
    "soup", "stew", "surimi", "synagog", "terrapin", "thunderbolt", "timepiece", "toadstool", "tophat", "trainer",
    "tshirt", "vespa", "warthog", "wristwatch", "yacht", "yam",
)  # fmt: skip
"""Concrete things among the tags of the evaluation concepts that are part of no name; chosen before any scoring.

Left out are abstract words ("serious"), since no image of them is right or wrong, and words that the dictionaries give
to something else ("hail" to a taxi) or to few of the things that they name ("cutlery")."""


def tag_only_words(corpus: Corpus, split: Split) -> dict[str, frozenset[str]]:
    """Those of ``TAG_WORDS`` that occur only as tags -> the concepts whose other name they are in an emoji style.

    A word is in no name of the corpus, and at least one of its concepts is an evaluation concept.
    """
    named = {word for picture in corpus.pictures for word in re.findall(r"[a-z']+", picture.name.lower())}
    called: dict[str, set[str]] = defaultdict(set)
    for picture in corpus.pictures:
        if picture.style in EMOJI_STYLES:
            for word in picture.also:
                called[word].add(picture.concept)
    return {
        word: frozenset(called[word])
        for word in TAG_WORDS
        if word not in named and not called[word].isdisjoint(split.concepts)
    }
