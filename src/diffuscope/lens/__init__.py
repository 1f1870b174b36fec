"""The scope: what happens inside of a model, read, drawn and changed, by taps and by functions of Denoisers.

``watch`` captures, ``heat`` maps words onto the picture, ``text`` looks into the text encoder, ``ablate`` finds what
matters, ``cross`` and ``attend`` edit attention, ``invert`` goes from a picture back to its noise, ``figures``
draws, ``film`` shows a run step by step, and ``explain`` makes one page of all.
"""

from diffuscope.lens.capture import Capture, compose

__all__ = ["Capture", "compose"]
