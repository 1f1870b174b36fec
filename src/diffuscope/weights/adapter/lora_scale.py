"""The scale of an adapter, alpha over rank: from the file, its metadata, or PEFT's settings beside it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffuscope.errors import WeightsError
from diffuscope.weights.store import files
from diffuscope.weights.store.files import Header

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"

METADATA = "lora_adapter_metadata"
"""Key of the metadata in which diffusers stores PEFT's settings."""

ALPHA_LIMIT = 1e9
"""alpha is about as large as the rank."""

_LEAF = re.compile(r"\.(?:lora|hada|lokr|oft)_")


def settings_of(path: Path, header: Header) -> dict[str, Any]:
    """PEFT's settings, from the file's metadata or the JSON file beside it; empty where there are none."""
    todo = "save the LoRA again"
    if METADATA in header.metadata:
        return files.parse_json(header.metadata[METADATA], f"metadata {METADATA} of {path}", todo)
    config = path.with_name(PEFT_CONFIG)
    return files.read_json(config, todo) if path.name == PEFT_FILE and config.is_file() else {}


def scale_of(
    key: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor], rank: int | None, settings: Mapping[str, Any]
) -> float:
    """Alpha / rank of the layer with these ``keys``, by its alpha or else PEFT's settings; 1 if it has no rank."""
    if "alpha" not in keys:
        return _peft_scale(key, rank, settings)
    scale = 1.0 if rank is None else float(tensors[keys["alpha"]]) / rank
    if not math.isfinite(scale):
        raise WeightsError(f"the alpha of {key!r} is not finite; fetch the file again")
    return scale


def terms_of(settings: Mapping[str, Any]) -> int | None:
    """The terms of PEFT's OFT, None with the inverse; defaults are PEFT's."""
    if settings.get("coft"):
        raise WeightsError("the OFT is constrained (coft), which is not supported; train without")
    terms = settings.get("num_cayley_neumann_terms", 5) if settings.get("use_cayley_neumann", True) else None
    if terms is not None and (isinstance(terms, bool) or not isinstance(terms, int) or not 4 <= terms <= 100):
        raise WeightsError(f"num_cayley_neumann_terms is {str(terms)[:80]}, expected 4 to 100")
    return terms


def _peft_scale(key: str, rank: int | None, settings: Mapping[str, Any]) -> float:
    """Alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023), by PEFT's settings; 1 without any, as in diffusers.

    Where shapes show no ``rank``, the settings have it.
    """
    part = key.split(".", 1)[0]
    own = {name.removeprefix(f"{part}."): value for name, value in settings.items() if name.startswith(f"{part}.")}
    own = own or {name: value for name, value in settings.items() if "." not in name}
    layer = _LEAF.split(key)[0]

    def setting(name: str, patterns: object, default: Any) -> float:
        value = default
        for pattern, special in patterns.items() if isinstance(patterns, dict) else ():
            if layer == pattern or layer.endswith(f".{pattern}"):
                value = special
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < ALPHA_LIMIT:
            raise WeightsError(f"{name} of the LoRA is {str(value)[:80]}, expected a number; save it again")
        return float(value)

    rank = rank or max(1, int(setting("r", own.get("rank_pattern"), own.get("r", 1))))
    alpha = setting("alpha", own.get("alpha_pattern"), own.get("lora_alpha", own.get("alpha", rank)))
    return alpha / (math.sqrt(rank) if own.get("use_rslora") else rank)
