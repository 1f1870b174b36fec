"""Whether a file whose tensors are mapped into memory is still the one that was opened.

A mapped tensor is read from the file when it is first used, so a file that is written over changes a running model, and
one that is cut short ends the process. A file that another replaces by its name stays as it was, and is no concern.
"""

from collections.abc import Iterable, Mapping
from os import stat_result
from pathlib import Path

from torch import Tensor

from diffuscope.errors import WeightsError
from diffuscope.weights.store.stores import is_pickle


def stamps(paths: Iterable[Path], tensors: Iterable[Tensor]) -> dict[Path, stat_result]:
    """Those of the files that some of the tensors are mapped from, as they are now."""
    sizes = {tensor.untyped_storage().nbytes() for tensor in tensors if tensor.device.type == "cpu"}
    found = {path: path.stat() for path in paths if path.is_file()}
    return {path: now for path, now in found.items() if now.st_size in sizes or (sizes and is_pickle(path))}


def changed(known: Mapping[Path, stat_result]) -> Path | None:
    """One of the files that was changed in place."""
    for path, then in known.items():
        try:
            now = path.stat()
        except OSError:  # removed, or out of reach: what is mapped stays
            continue
        is_the_file = (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
        if is_the_file and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            return path
    return None


def check(known: Mapping[Path, stat_result]) -> None:
    """WeightsError if one of the files was changed in place."""
    if (path := changed(known)) is not None:
        raise WeightsError(
            f"{path} was changed since the model was opened, and the model reads its weights from there; "
            "load it again, and write a new file where others may have the old one open"
        )
