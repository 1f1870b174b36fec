"""Which program wrote a file's texts."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from diffuscope.metadata import comfyui, infotext, services
from diffuscope.metadata.settings import Settings

PARAMETERS = ("parameters", "EXIF UserComment", "comment")
"""Where AUTOMATIC1111's text is: in a PNG, and in JPEG and WebP."""

JSON_LIMIT = 1 << 24
"""Characters of a JSON text that is parsed."""


def settings_of(texts: Mapping[str, str]) -> tuple[Settings | None, dict[str, str]]:
    """The settings in a file's texts, and the texts that say nothing here, by name.

    Each text is in the settings, used or not used, or is returned.
    """
    for key, parse in _FORMS:
        if (document := _object(texts.get(key), key)) is not None and (settings := parse(document)) is not None:
            return settings, _others(texts, key)
    for key in PARAMETERS:
        document = _object(texts.get(key), key)
        if document is not None and "sui_image_params" in document:
            return services.swarmui(document), _others(texts, key)
        if document is not None and "base_model" in document:
            return services.fooocus(document), _others(texts, key)
        if key in texts and document is None and (key == "parameters" or "\nSteps: " in texts[key]):
            return infotext.parse(texts[key]), _others(texts, key)
    return None, dict(texts)


def _comfyui(document: dict[str, Any]) -> Settings | None:
    is_graph = any(isinstance(node, dict) and "class_type" in node for node in document.values())
    return comfyui.parse(document) if is_graph else None


def _novelai(document: dict[str, Any]) -> Settings | None:
    return services.novelai(document) if "uc" in document or "noise_schedule" in document else None


_FORMS: tuple[tuple[str, Callable[[dict[str, Any]], Settings | None]], ...] = (
    ("invokeai_metadata", services.invokeai),
    ("sd-metadata", services.invokeai_2),
    ("Comment", _novelai),
    ("prompt", _comfyui),
    ("EXIF Model", _comfyui),
)
"""Text -> how its JSON is read. ComfyUI writes "prompt:{...}" into the camera's model of a WebP."""


def _others(texts: Mapping[str, str], used: str) -> dict[str, str]:
    return {key: value for key, value in texts.items() if key != used}


def _object(text: str | None, key: str) -> dict[str, Any] | None:
    """A text as a JSON object, or None."""
    if text is None or len(text) > JSON_LIMIT:
        return None
    text = text.removeprefix("prompt:") if key == "EXIF Model" else text
    if text.lstrip()[:1] != "{":
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
