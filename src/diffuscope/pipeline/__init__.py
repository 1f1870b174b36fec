"""From a prompt to pictures: one loop, handed to the caller, and the receipt that repeats it."""

from diffuscope.pipeline.pipeline import Pipeline, load, samplers
from diffuscope.pipeline.repeat import Replay, replay
from diffuscope.pipeline.result import Result
from diffuscope.pipeline.run import Run

__all__ = ["Pipeline", "Replay", "Result", "Run", "load", "replay", "samplers"]
