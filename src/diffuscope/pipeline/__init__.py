"""From a prompt to images: one loop, owned by the caller, and the receipt that repeats it."""

from diffuscope.pipeline.open import load, open_model, samplers
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.pipeline.result import Result
from diffuscope.pipeline.run import Run

__all__ = ["Pipeline", "Result", "Run", "load", "open_model", "samplers"]
