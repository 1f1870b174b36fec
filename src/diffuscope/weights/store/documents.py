"""JSON and text files: read within limits, written whole or not at all. Imports no torch."""

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from diffuscope.errors import ModelNotFoundError, OutputError, WeightsError, shown
from diffuscope.output import replacing

JSON_LIMIT = 1 << 24  # bytes of a JSON file; a tokenizer's is a quarter of it, a configuration a thousandth


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def make_folder(path: str | Path) -> None:
    """Make a folder, and those above it, unless they exist."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {path} cannot be made: {error.strerror}; give another path") from error


KINDS: dict[type, str] = {dict: "a JSON object", list: "a JSON list"}


def read_json(path: Path, todo: str, kind: type = dict, limit: int = JSON_LIMIT) -> Any:
    """The content of a JSON file, an object unless ``kind`` is another type; errors end with ``todo``."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for ever, a device never end
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"it is longer than {limit} bytes")
        text = content.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"{path} is missing; {todo}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{path} cannot be read as JSON: {reason}; {todo}") from error
    return parse_json(text, str(path), todo, kind)


def parse_json(text: str, source: str, todo: str, kind: type = dict) -> Any:
    """The content of a JSON text, an object unless ``kind`` is another type; errors name ``source``."""
    try:
        document = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source} cannot be read as JSON: {str(error)[:200]}; {todo}") from error
    if not isinstance(document, kind):
        raise WeightsError(f"{source} is a JSON {type(document).__name__}, expected {KINDS[kind]}; {todo}")
    return document


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of a JSON object, each name once."""
    table = dict(pairs)
    if len(table) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {shown(name)} twice")
    return table
