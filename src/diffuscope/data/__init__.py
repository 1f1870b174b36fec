"""The emoji corpus: vector pictures of published packages, their names, and captioned scenes composed of them.

The chain is ``corpus.build`` -> ``Corpus`` -> ``render.render_all`` -> ``colours.dominant_tones`` ->
``scenes.sample_scenes`` -> ``compose.compose``. ``split`` decides which pairs are held out from training.
"""

from diffuscope.data.corpus import Corpus, build

__all__ = ["Corpus", "build"]
