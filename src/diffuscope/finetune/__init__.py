"""Teach a model one thing: a word (textual inversion), a subject (LoRA with prior preservation), one picture (Imagic).

Nothing of the Pipeline changes; each function writes one file, which the Pipeline and other programs open. Importing
this package loads no torch: each name is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffuscope.finetune.imagic import Imagic, ImagicReport, load_imagic, train_imagic
    from diffuscope.finetune.lora import LoraTrainingReport, train_lora
    from diffuscope.finetune.word import WordReport, train_word

__all__ = [
    "Imagic",
    "ImagicReport",
    "LoraTrainingReport",
    "WordReport",
    "load_imagic",
    "train_imagic",
    "train_lora",
    "train_word",
]

_HOMES = {
    "Imagic": "imagic",
    "ImagicReport": "imagic",
    "LoraTrainingReport": "lora",
    "WordReport": "word",
    "load_imagic": "imagic",
    "train_imagic": "imagic",
    "train_lora": "lora",
    "train_word": "word",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffuscope.finetune' has no attribute {name!r}; it has {', '.join(__all__)}")
    value: object = getattr(importlib.import_module(f"diffuscope.finetune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
