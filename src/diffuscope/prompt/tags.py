"""``<lora:name:0.8>`` in a prompt: which LoRA, how strong; not a word of the text."""

import re
from dataclasses import dataclass

from diffuscope.errors import InputError

_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A prompt taken apart."""

    text: str
    """Without the tags, and without the spaces around them."""
    loras: dict[str, float]
    """Name -> weight; 1 where the tag gives none."""


def take_apart(prompt: str) -> Tagged:
    """The text of a prompt and its LoRA tags. A prompt without a tag is its own text, to the letter.

    Raises:
        InputError: a tag without a name, with a weight that is no number, or two tags of one name.
    """
    loras: dict[str, float] = {}
    for tag in _TAG.finditer(prompt):
        name, _, weight = (part.strip() for part in tag[1].partition(":"))
        if not name or name in loras:
            flaw = f"names the LoRA {name!r} again" if name else "has no name"
            raise InputError(f"the tag {tag[0]} {flaw}; write each LoRA once, as <lora:NAME:WEIGHT>")
        try:
            loras[name] = float(weight) if weight else 1.0
        except ValueError:
            raise InputError(f"the weight of the tag {tag[0]} is no number; write it as <lora:{name}:0.8>") from None
    if not loras:
        return Tagged(prompt, {})
    pieces = (piece.strip() for piece in _TAG.sub("\n", prompt).split("\n"))
    return Tagged(" ".join(piece for piece in pieces if piece), loras)
