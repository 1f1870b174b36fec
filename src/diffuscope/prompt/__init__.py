"""Prompts to Conditioning: encoding, LoRA tags, token positions, token surgery and prompt mixing."""

from diffuscope.prompt.encoding import Tower, encode, encode_all, truncation_notice

__all__ = ["Tower", "encode", "encode_all", "truncation_notice"]
