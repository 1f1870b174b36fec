"""Look inside a run and change it: capture activations, map attention, ablate, edit, invert, and draw figures.

``capture`` stores activations, ``attention_maps`` shows where each word of a prompt is in the image, ``text``
inspects the text encoder, ``ablation`` measures what matters, ``prompt_to_prompt`` and ``attend_and_excite`` edit
attention, ``inversion`` goes from an image back to its noise, ``figures`` and ``network_figures`` draw, ``animation``
shows a run step by step, and ``explain`` makes one page of all of it.
"""

from diffuscope.lens.capture import Capture
from diffuscope.lens.run_tap import compose

__all__ = ["Capture", "compose"]
