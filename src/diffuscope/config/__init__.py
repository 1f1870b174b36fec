"""What tells one model from another: frozen configs, checked on birth, and the presets that ship.

An architecture config holds what changes a weight's shape, plus the few switches without which the weights mean
nothing (activation, prediction type). Variants are made with ``dataclasses.replace``.
"""

from diffuscope.config.families import EMOJI, FAMILIES, PRESETS, SD15, SDXL, TINY, narrow
from diffuscope.config.model import (
    LARGEST,
    LEVELS,
    MAX_PIXELS,
    REFINER_SIZES,
    SDXL_SIZES,
    SPACINGS,
    TIME_SPACINGS,
    BetaKind,
    FinalSigma,
    ModelConfig,
    Prediction,
    Preset,
    ScheduleConfig,
    Spacing,
    TimeSpacing,
)
from diffuscope.config.networks import TextEncoderConfig, UNetConfig, VAEConfig

__all__ = [
    "EMOJI",
    "FAMILIES",
    "LARGEST",
    "LEVELS",
    "MAX_PIXELS",
    "PRESETS",
    "REFINER_SIZES",
    "SD15",
    "SDXL",
    "SDXL_SIZES",
    "SPACINGS",
    "TIME_SPACINGS",
    "TINY",
    "BetaKind",
    "FinalSigma",
    "ModelConfig",
    "Prediction",
    "Preset",
    "ScheduleConfig",
    "Spacing",
    "TextEncoderConfig",
    "TimeSpacing",
    "UNetConfig",
    "VAEConfig",
    "narrow",
]
