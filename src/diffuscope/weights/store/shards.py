"""One network's tensors spread over several files, with an index that says which tensor lies where."""

import json
from pathlib import Path

from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.weights.store import files

INDICES = ("{}.index.json", "{}.index.fp16.json")
"""Names of an index, of the name that the whole file would have."""

INDEX_LIMIT = 1 << 26
"""Bytes; that of a network of a hundred thousand tensors is a tenth of it."""


def find_index(whole: Path) -> Path | None:
    """The index of the shards that stand for the file ``whole``, or None where there is none."""
    paths = (whole.with_name(name.format(whole.name)) for name in INDICES)
    return next((path for path in paths if path.is_file()), None)


def read_index(index: Path) -> tuple[Path, ...]:
    """The files of a shard set, each checked to be there and to hold just the tensors that the index gives it.

    Raises:
        ModelNotFoundError: a file of the set is missing.
        WeightsError: the index is damaged, names files elsewhere, or says other than the files do.
    """
    try:
        if index.stat().st_size > INDEX_LIMIT:
            raise ValueError(f"it is longer than {INDEX_LIMIT} bytes")
        document = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{index} cannot be read as JSON: {error}; fetch it again") from error
    table = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files; fetch it again")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names {name!r}, wanted .safetensors files beside it; fetch the model again")
    paths = tuple(index.with_name(name) for name in names)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{index} names {len(names)} files, of which {', '.join(missing)} are missing; fetch the whole set"
        )
    for path in paths:
        wanted = {tensor for tensor, name in table.items() if name == path.name}
        found = files.read_header(path).tensors.keys()
        if wanted != found:
            tensor = min(wanted ^ found)
            where = "is not in it" if tensor in wanted else "is not said to be"
            raise WeightsError(f"{index} and {path.name} disagree: {tensor!r} {where}; fetch the whole set again")
    return paths
