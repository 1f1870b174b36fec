"""From texts to what the U-Net is told: each text encoded once, and what did not fit said word by word."""

from diffuscope.prompt.encode import Tower, encode, encode_in_all, what_was_cut

__all__ = ["Tower", "encode", "encode_in_all", "what_was_cut"]
