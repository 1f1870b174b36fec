"""From texts to what the U-Net is told: each text encoded once, and what did not fit said word by word."""

from diffuscope.prompt.encode import encode, what_was_cut

__all__ = ["encode", "what_was_cut"]
