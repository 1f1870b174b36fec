"""Words that occur only as tags, and in no name of the corpus."""

import re

from diffuscope.data.corpus import Corpus
from diffuscope.data.split import Split

TAG_WORDS = (
    "aeroplane", "airport", "ale", "arachnid", "banknotes", "beef", "beeper", "beers", "burger", "buttercup", "cab",
    "camcorder", "carriage", "chapel", "cheeseburger", "container", "copter", "cutlery", "dinghy", "dromedary", "fir",
    "fishcake", "fishes", "flapjacks", "fuelpump", "funicular", "gasoline", "gemstone", "gondola", "gooseberry",
    "gown", "grains", "grandstand", "grape", "hail", "handgun", "heels", "hen", "hotcake", "hotcakes", "housecat",
    "iphone", "kitten", "kitty", "kiwifruit", "lollypop", "mandarin", "masjid", "medallion", "meteoroid", "mic",
    "minaret", "minivan", "mollusk", "moneybag", "motorbike", "nectarine", "painting", "pancake", "parasol", "parcel",
    "parchment", "pastry", "petrol", "pho", "pickaxe", "pint", "puck", "pumps", "puppies", "puppy", "python",
    "racehorse", "railcar", "ramen", "reindeer", "rhino", "rosary", "ruby", "runner", "sapling", "sax", "skewer",
    "sneaker", "sneakers", "soup", "stew", "surimi", "synagog", "tableware", "taxicab", "terrapin", "textbook",
    "thunderbolt", "timepiece", "toadstool", "tophat", "trackpad", "trainer", "tshirt", "vespa", "vitamin", "warthog",
    "wristwatch", "yacht", "yam",
)  # fmt: skip
"""Concrete things among the tags of the evaluation concepts that are part of no name; chosen before any scoring.

Abstract words ("upon", "serious") are left out: no image of them is right or wrong."""

_MAX_CONCEPTS = 5  # that may carry a word, as in the captions of the training


def tag_only_words(corpus: Corpus, split: Split) -> dict[str, frozenset[str]]:
    """Those of ``TAG_WORDS`` that occur only as tags -> the concepts that carry them in an emoji style.

    A word is in no name, and a tag of one to five concepts, at least one of them an evaluation concept.
    """
    named = {word for picture in corpus.pictures for word in re.findall(r"[a-z']+", picture.name.lower())}
    carriers = corpus.concepts_by_tag()
    return {
        word: frozenset(carriers[word])
        for word in TAG_WORDS
        if word not in named and word in carriers
        if len(carriers[word]) <= _MAX_CONCEPTS and not carriers[word].isdisjoint(split.concepts)
    }
