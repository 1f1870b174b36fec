"""Flags and checks that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from diffuscope.errors import InputError

OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
"""Of flags that may be left out: help shows neither the None nor the union with it."""


@dataclass(frozen=True)
class Device:
    """Device and number format of the networks."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps or xpu"""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16"""


AUTO = Device()


def require_files(**files: Path | None) -> None:
    """InputError if one of the files, each under its argument's name, does not exist; None is no file."""
    for argument, path in files.items():
        if path is not None and not path.is_file():
            raise InputError(argument, str(path), "a file that exists")
