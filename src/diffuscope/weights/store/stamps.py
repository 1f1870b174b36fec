"""Whether a file whose tensors are mapped into memory is still the one that was opened.

A mapped tensor is read from the file when it is first used, so a file that is written over changes a running model, and
one that is cut short ends the process. A file that another replaces by its name stays as it was, and is no concern.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from os import stat_result
from pathlib import Path

from torch import Tensor

from diffuscope.errors import WeightsError
from diffuscope.weights.store.stores import is_pickle


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was."""

    path: Path
    identity: tuple[int, int]
    """Device and inode."""
    content: tuple[int, int]
    """Bytes, and the nanosecond of the last change."""


def stamps(paths: Iterable[Path], tensors: Iterable[Tensor]) -> tuple[Stamp, ...]:
    """Of those of the files that some of the tensors are mapped from, as they are now."""
    sizes = {tensor.untyped_storage().nbytes() for tensor in tensors if tensor.device.type == "cpu"}
    found = {path: path.stat() for path in paths if path.is_file()}
    mapped = {path: now for path, now in found.items() if now.st_size in sizes or (sizes and is_pickle(path))}
    return tuple(Stamp(path, _identity(now), _content(now)) for path, now in mapped.items())


def check(known: Iterable[Stamp]) -> None:
    """WeightsError if one of the files was changed in place."""
    for stamp in known:
        try:
            now = stamp.path.stat()
        except OSError:  # removed, or out of reach: what is mapped stays
            continue
        if _identity(now) == stamp.identity and _content(now) != stamp.content:
            raise WeightsError(
                f"{stamp.path} was changed since the model was opened, and the model reads its weights from there; "
                "load it again, and write a new file where others may have the old one open"
            )


def _identity(now: stat_result) -> tuple[int, int]:
    return now.st_dev, now.st_ino


def _content(now: stat_result) -> tuple[int, int]:
    return now.st_size, now.st_mtime_ns
