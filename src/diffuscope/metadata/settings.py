"""Settings of another program as options of a call: each is used, or named as not used."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffuscope.diffusion import samplers
from diffuscope.errors import InputError, shortened
from diffuscope.request import Request, Syntax
from diffuscope.schema import conformed, options

OTHERS = {"model": str, "vae": str}
"""What ``load`` takes, beside the options of a call."""

SPACINGS = {
    "karras": "karras",
    "exponential": "exponential",
    "sgmuniform": "sgm_uniform",
    "beta": "beta",
    "uniform": "linspace",
    "normal": "linspace",
}
"""Names of spacings in the other programs, lower-case letters alone -> ours."""

_ANNOTATIONS = OTHERS | {option.name: option.annotation for option in options(Request)}
_SHOWN = 80

_SIGNS = re.compile(r"[()\[\]\\]|\b(?:BREAK|AND)\b")
_WORDS = re.compile(r"\w+|[^\w\s]")
_FEW = 40
"""So many words surely fit into 75 tokens, if they are short."""


@dataclass
class Settings:
    """What a program wrote about an image."""

    program: str
    options: dict[str, Any] = field(default_factory=dict)
    """Options of a call or of ``load``, by name."""
    unused: dict[str, str] = field(default_factory=dict)
    """Name -> value, shortened: what no option here takes."""
    notes: list[str] = field(default_factory=list)
    """What one has to know to make the image here."""

    def take(self, name: str, key: str, value: Any) -> bool:
        """Use ``value``, which the program calls ``key``, for the option ``name``; False if it is not possible."""
        try:
            if name == "sampler":
                found = samplers.find(str(value)[:100].removesuffix("_gpu"))  # ComfyUI's, of where noise is drawn
                self.options["sampler"] = found.info.name
                if found.spacing is not None:
                    self.options["sigmas"] = found.spacing
                return True
            fit = conformed(value, _ANNOTATIONS[name], name)
            if value != {}:
                self.options[name] = value if isinstance(value, dict) else fit
        except InputError:
            self.leave(key, value)
            return False
        return True

    def take_syntax(self, syntax: Syntax) -> None:
        """Read the prompts as the program does, where they may have weights or more than 75 tokens."""
        texts = [self.options.get(name) or "" for name in ("prompt", "negative_prompt")]
        if any(_SIGNS.search(text) or len(_WORDS.findall(text)) > _FEW for text in texts):
            self.options["prompt_syntax"] = syntax

    def leave(self, key: str, value: Any) -> None:
        """Name a value as not used."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        self.unused[key] = shortened(" ".join(text[: 4 * _SHOWN].split()), _SHOWN) if text else ""

    def take_spacing(self, key: str, value: Any) -> None:
        """Use a name of a spacing in another program."""
        plain = "".join(sign for sign in str(value).lower() if sign.isalpha())
        if plain in SPACINGS:
            self.options["sigmas"] = SPACINGS[plain]
        else:
            self.leave(key, value)

    def take_lora(self, key: str, name: Any, weight: Any) -> None:
        """Append a LoRA to the prompt, which is already taken."""
        if isinstance(name, str) and name and not set(name) & set("<>:") and number(weight) is not None:
            stem = name.removesuffix(".safetensors")
            self.options["prompt"] = f"{self.options.get('prompt', '')} <lora:{stem}:{number(weight):g}>".strip()
        else:
            self.leave(key, f"{name} {weight}")

    def take_all(self, values: Mapping[str, Any], names: Mapping[str, tuple[str, Callable[[Any], Any]]]) -> None:
        """Use the values whose keys are in ``names``, as (option, conversion); leave the others."""
        for key, value in values.items():
            if key not in names:
                self.leave(key, value)
            elif value is not None:
                name, convert = names[key]
                converted = convert(value)
                if converted is None:
                    self.leave(key, value)
                else:
                    self.take(name, key, converted)


def whole(value: Any) -> int | None:
    """A whole number, also as text or as 7.0; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)  # a seed has more digits than a float
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = number(value)
    return None if found is None or found % 1 else int(found)


def number(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value[:40] if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def text(value: Any) -> str | None:
    """A text; None for anything else."""
    return value if isinstance(value, str) else None
