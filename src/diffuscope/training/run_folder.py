"""The folder of a run: one process writes into it at a time, and its log stays readable whenever the run ends."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffuscope.errors import OutputError, TrainingError
from diffuscope.weights.store import documents

LOG = "log.jsonl"
CHECKPOINT = "checkpoint.safetensors"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep it for this process; the system frees it when the process ends, however it ends.

    Raises:
        TrainingError: another process has it.
    """
    documents.make_folder(folder)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}; give another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"another run writes into {folder}; wait until it has ended, or give another folder"
            ) from error
        yield


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log in order; one that is torn, where a run was interrupted or the disk was full, is left out."""
    lines = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            numbers = json.loads(line)
            if isinstance(numbers, dict) and type(numbers.get("step")) in (int, float):
                lines.append(numbers)
    return lines


def rewind_log(folder: Path, step: int) -> None:
    """Leave out what was written after the checkpoint of ``step``, and a torn line."""
    path = folder / LOG
    if path.exists():
        kept = [json.dumps(numbers) + "\n" for numbers in read_log(path) if numbers["step"] <= step]
        documents.write_text(path, "".join(kept))


def append_log(folder: Path, numbers: Mapping[str, Any]) -> None:
    """Add a line."""
    try:
        with (folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(numbers) + "\n")
            log.flush()
            os.fsync(log.fileno())
    except OSError as error:
        raise OutputError(f"{folder / LOG} cannot be written: {error.strerror}; make room on the disk") from error
