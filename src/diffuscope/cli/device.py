"""Flags for where networks run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Device and number format of the networks."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps or xpu"""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16"""


AUTO = Device()
