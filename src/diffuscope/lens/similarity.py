"""How well a picture fits a text: ``diffuscope.similarity``, which lies lower, as a call's options lead by it too."""

from diffuscope.similarity import Similarity, great_circle, load_similarity

__all__ = ["Similarity", "great_circle", "load_similarity"]
