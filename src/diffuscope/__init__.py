"""Stable Diffusion you can see through.

``ds.load("emoji")`` returns a Pipeline; ``pipe("a red fox")`` generates an image; ``pipe.steps(...)`` yields its steps.
Importing the package loads no torch: each public name is fetched when it is first used.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffuscope import data, diffusion, errors, images, models, weights
    from diffuscope.config import ModelConfig
    from diffuscope.model_source import ModelSource
    from diffuscope.models.tokenizer import Tokenizer
    from diffuscope.nn.taps import tap_points
    from diffuscope.pipeline import Pipeline, Result, Run, load, samplers
    from diffuscope.reproduce import Replay, replay
    from diffuscope.request import Branch, GuidanceOptions, Latents, Request, Thresholding
    from diffuscope.types import Conditioning, Denoiser, Levels, Noise, Step, Tap

__all__ = [
    "Branch",
    "Conditioning",
    "Denoiser",
    "GuidanceOptions",
    "Latents",
    "Levels",
    "ModelConfig",
    "ModelSource",
    "Noise",
    "Pipeline",
    "Replay",
    "Request",
    "Result",
    "Run",
    "Step",
    "Tap",
    "Thresholding",
    "Tokenizer",
    "__version__",
    "data",
    "diffusion",
    "errors",
    "images",
    "load",
    "models",
    "replay",
    "samplers",
    "tap_points",
    "weights",
]

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    # OpenMP reads this once, when torch loads it. Its threads that wait must sleep soon, not spin, or one busy core
    # stalls all of them: on two cores, one of them busy, a picture took 28 s, and 6 s so; with both free there is no
    # difference.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_HOMES = {
    "Branch": "request",
    "Conditioning": "types",
    "Denoiser": "types",
    "GuidanceOptions": "request",
    "Latents": "request",
    "Levels": "types",
    "ModelConfig": "config",
    "ModelSource": "model_source",
    "Noise": "types",
    "Pipeline": "pipeline",
    "Replay": "reproduce",
    "Request": "request",
    "Result": "pipeline",
    "Run": "pipeline",
    "Step": "types",
    "Tap": "types",
    "Thresholding": "request",
    "Tokenizer": "models.tokenizer",
    "load": "pipeline",
    "replay": "reproduce",
    "samplers": "pipeline",
    "tap_points": "nn.taps",
}
"""Public name -> the module that defines it. The other public names are modules themselves."""

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("diffuscope")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"diffuscope.{_HOMES[name]}"), name)
    elif name in __all__:
        value = importlib.import_module(f"diffuscope.{name}")
    else:
        raise AttributeError(f"module 'diffuscope' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
