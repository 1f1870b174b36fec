"""From a prompt to pictures: one loop, handed to the caller, and the receipt that repeats it."""

from diffuscope.pipeline.adapters import LoraReport
from diffuscope.pipeline.opening import load, samplers
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.pipeline.repeat import Replay, replay
from diffuscope.pipeline.result import Result
from diffuscope.pipeline.run import Run
from diffuscope.pipeline.words import EmbeddingReport

__all__ = ["EmbeddingReport", "LoraReport", "Pipeline", "Replay", "Result", "Run", "load", "replay", "samplers"]
