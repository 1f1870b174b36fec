"""The emoji corpus: where the pictures come from, what they are called, and the captioned scenes made of them.

The chain is ``corpus.build`` -> ``Corpus`` -> ``render.render_all`` -> ``colours.measure`` -> ``scenes.draw_scenes`` ->
``compose.compose``. What is never trained on is decided once, in ``split``.
"""

from diffuscope.data.corpus import Corpus, build

__all__ = ["Corpus", "build"]
