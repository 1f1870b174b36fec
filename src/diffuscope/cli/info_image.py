"""``diffuscope info`` of an image: what its texts say, which of them are used, and the command that makes it here."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffuscope.cli.flags import flag_of
from diffuscope.errors import DiffuscopeError, ImageError
from diffuscope.request import image_options

if TYPE_CHECKING:
    from diffuscope.metadata import Settings

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
LONG = 2000  # characters; the noise levels of 50 steps have a half of it
FOLDER = "FOLDER"
"""Stands in a command for the folder of models."""


def describe(path: Path) -> list[str]:
    """The lines of an image."""
    from diffuscope.metadata import read_texts, settings_of
    from diffuscope.pipeline.receipt import JSON_KEY, TEXT_KEY, read

    try:
        image = read_texts(path)
    except ImageError as error:
        raise DiffuscopeError(f"{path} is neither a weight file nor an image: {error}") from error
    lines, texts = [f"{path}: an image of {image.width}x{image.height} pixels"], dict(image.texts)
    if JSON_KEY in texts:
        lines += ["", _cut(texts.pop(TEXT_KEY))] if TEXT_KEY in texts else []
        lines += ["", *_receipt(read(path))]
        del texts[JSON_KEY]
    else:
        settings, texts = settings_of(texts)
        lines += ["no receipt"] if settings is None else _settings(settings, image.texts.get(TEXT_KEY, ""))
    if texts:
        lines += ["", "texts in the file that say nothing here:"]
        lines += [f"  {key}: {_short(text)}" for key, text in texts.items()]
    return lines


def _receipt(receipt: dict[str, Any]) -> list[str]:
    """The receipt as JSON, an entry a line; of a long one its beginning and its end."""
    whole = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in receipt.items()]
    shown = [_cut(line) for line in whole]
    note = ["long entries are cut here; in the file they are whole"] if shown != whole else []
    return ["{", ",\n".join(shown), "}", *note]


def _cut(text: str) -> str:
    """A text of an image; of a long one its beginning and its end."""
    if len(text) <= LONG:
        return text
    return f"{text[: LONG // 2]} ... ({len(text):,} characters) ... {text[-LONG // 2 :]}"


def _settings(settings: "Settings", infotext: str) -> list[str]:
    lines = [f"made by {settings.program}, without a receipt", ""]
    if infotext and not infotext.lstrip().startswith("{"):
        lines += [infotext, ""]
    if settings.options.keys() - {"prompt"} or settings.options.get("prompt"):
        lines += ["as nearly as it says, here:", f"  {command(settings.options)}", ""]
    if "model" in settings.options:
        lines.append(f"  {FOLDER} is where the model is; `diffuscope info {FOLDER}` lists what is there")
    lines += [f"  {note}" for note in settings.notes]
    lines += [f"  not used: {key}: {value}" for key, value in settings.unused.items()]
    return lines if lines[-1] else lines[:-1]


def command(options: dict[str, Any]) -> str:
    """The command line with these options."""
    prompt = options.get("prompt", "")
    words = ["diffuscope", "generate", shlex.quote(f" {prompt}" if prompt.startswith("-") else prompt)]
    for name, value in options.items():
        if name == "prompt" or value in (None, "", {}):
            continue
        words += [] if name != "model" else [f"--models-dir {FOLDER}"]
        words += ["--image IMAGE"] if name in image_options() else []
        values = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        words += [_flag(argument, each) for argument, each in values.items()]
    return " ".join(words)


def _flag(argument: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{flag_of(argument)}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def _short(text: str) -> str:
    shown = " ".join(text[:400].split())[:100]
    return shown if len(text) <= 100 else f"{shown} ... ({len(text):,} characters)"
