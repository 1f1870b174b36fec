"""``config.json`` of a model's folder in our own layout, and of a single file's metadata."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffuscope.config import ModelConfig, Preset, ScheduleConfig, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.errors import WeightsError, shown
from diffuscope.weights.store import documents

FILE = "config.json"
WORDS = "words.json"  # the words of the training captions, as the tokenizer reads them; a folder may be without


def read(folder: Path) -> ModelConfig:
    """The config of a folder in our layout."""
    path, todo = folder / FILE, "save the model again"
    document = documents.read_json(path, todo)
    if "name" not in document and (folder.absolute().parent / "model_index.json").is_file():
        raise WeightsError(f"{folder} is one part of a model; give the folder above it")
    return model_config(document, str(path), todo)


def read_words(folder: Path) -> frozenset[str]:
    """The words of a folder's training captions; none where it has no list of them."""
    path, todo = folder / WORDS, "delete it, or fetch the folder again"
    words = documents.read_json(path, todo, list) if path.is_file() else []
    if not all(isinstance(word, str) for word in words):
        raise WeightsError(f"{path} is no list of words; {todo}")
    return frozenset(words)


def model_config(document: Mapping[str, Any], source: str, todo: str) -> ModelConfig:
    """The config in a JSON object; errors name ``source``."""
    try:
        return from_json(document)
    except (ValueError, TypeError, OverflowError) as error:
        raise WeightsError(f"{source} describes no model ({str(error)[:300]}); {todo}") from error


def from_json(document: Mapping[str, Any]) -> ModelConfig:
    """The config that ``to_json`` wrote. A missing key means the default; an unknown one is a TypeError."""
    parts = {
        "text_encoder": TextEncoderConfig,
        "text_encoder_2": TextEncoderConfig,
        "unet": UNetConfig,
        "vae": VAEConfig,
        "schedule": ScheduleConfig,
        "preset": Preset,
    }
    if not isinstance(document, Mapping) or not isinstance(document.get("name"), str):
        raise ValueError("it is no JSON object with a name")
    values: dict[str, Any] = dict(document)
    for name, kind in parts.items():
        if name in values and not (name == "text_encoder_2" and values[name] is None):
            if not isinstance(values[name], Mapping):
                raise ValueError(f"its {name} is {shown(values[name])}, not an object")
            values[name] = kind(**{key: tuples(value) for key, value in values[name].items()})
    return ModelConfig(**{name: tuples(value) for name, value in values.items()})


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples of a config."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def to_json(config: ModelConfig) -> str:
    """``config`` as the text of a config.json."""
    return json.dumps(asdict(config), indent=2) + "\n"
