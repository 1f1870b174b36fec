"""Words that the model can know only from tags: things that no picture of the corpus is called."""

import re
from collections import defaultdict

from diffuscope.data.corpus import Corpus
from diffuscope.data.packages import EMOJI_STYLES
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
"""Every concrete thing among the tags of the evaluation concepts that are part of no name, chosen before any model was
scored. Abstract words ("upon", "serious") are left out: no picture of them is right or wrong."""

_MOST = 5  # concepts that a word may stand for: the rule of training's captions


def telling(corpus: Corpus, split: Split) -> dict[str, frozenset[str]]:
    """The words of ``TAG_WORDS`` known only from tags -> the concepts that carry them as a tag in an emoji style.

    A word counts if it occurs in no name of any picture, is carried by one to five concepts, and by at least one of the
    evaluation concepts.
    """
    named = {word for picture in corpus.pictures for word in re.findall(r"[a-z']+", picture.name.lower())}
    carriers: dict[str, set[str]] = defaultdict(set)
    for picture in corpus.pictures:
        if picture.style in EMOJI_STYLES:
            for tag in picture.tags:
                carriers[tag].add(picture.concept)
    return {
        word: frozenset(carriers[word])
        for word in TAG_WORDS
        if word not in named and 0 < len(carriers[word]) <= _MOST and not carriers[word].isdisjoint(split.concepts)
    }
