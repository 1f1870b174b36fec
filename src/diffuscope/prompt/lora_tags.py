"""``<lora:name:0.8>`` in a prompt: the name and weight of a LoRA, no part of the text."""

import re
from dataclasses import dataclass

from diffuscope.errors import InputError

_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TaggedPrompt:
    """A prompt and its LoRA tags, apart."""

    text: str
    """Without the tags and the spaces around them."""
    loras: dict[str, float]
    """Name -> weight; 1 where the tag has none."""


def parse_lora_tags(prompt: str) -> TaggedPrompt:
    """The text of a prompt and its LoRA tags. A prompt without a tag keeps every character.

    Raises:
        InputError: a tag without a name, with a weight that is no number, or a second tag of one name.
    """
    loras: dict[str, float] = {}
    for tag in _TAG.finditer(prompt):
        name, _, weight = (part.strip() for part in tag[1].partition(":"))
        if not name or name in loras:
            raise InputError("prompt", tag[0], "each LoRA's name in one tag", "Write <lora:NAME:WEIGHT>.")
        try:
            loras[name] = float(weight) if weight else 1.0
        except ValueError:
            raise InputError("prompt", tag[0], f"a number for the weight, such as <lora:{name}:0.8>") from None
    if not loras:
        return TaggedPrompt(prompt, {})
    pieces = (piece.strip() for piece in _TAG.sub("\n", prompt).split("\n"))
    return TaggedPrompt(" ".join(piece for piece in pieces if piece), loras)
