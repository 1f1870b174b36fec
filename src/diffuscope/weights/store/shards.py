"""A network's tensors in several files, with an index of which tensor is in which file."""

from pathlib import Path

from diffuscope.errors import ModelNotFoundError, WeightsError, shown
from diffuscope.weights.store import documents, headers

INDICES = ("{}.index.json", "{}.index.fp16.json")  # names of the index, from the name of the unsharded file
INDEX_LIMIT = 1 << 26  # bytes of an index; that of a hundred thousand tensors is a tenth of it
SHARDS_LIMIT = 1000
NAME_LIMIT = 255  # of a file's name, as file systems have it


def find_index(whole: Path) -> Path | None:
    """The index of the shards of the file ``whole``, or None."""
    paths = (whole.with_name(name.format(whole.name)) for name in INDICES)
    return next((path for path in paths if path.is_file()), None)


def read_index(index: Path) -> tuple[Path, ...]:
    """The shards of a model, each checked to exist and to hold exactly the tensors that the index names."""
    table = documents.read_json(index, "fetch it again", limit=INDEX_LIMIT).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files; fetch it again")
    indexed: dict[str, set[str]] = {}
    for tensor, name in table.items():
        indexed.setdefault(name, set()).add(tensor)
    if len(indexed) > SHARDS_LIMIT:
        raise WeightsError(f"{index} names {len(indexed)} files, expected at most {SHARDS_LIMIT}; fetch it again")
    for name in sorted(indexed):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors") or len(name) > NAME_LIMIT:
            raise WeightsError(
                f"{index} names {shown(name)}, expected .safetensors files beside it; fetch the model again"
            )
    paths = tuple(index.with_name(name) for name in sorted(indexed))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ModelNotFoundError(
            f"{index} names {len(paths)} files, of which {listed} are missing; fetch the whole set"
        )
    for path in paths:
        stored = headers.read_header(path).tensors.keys()
        if indexed[path.name] != stored:
            tensor = min(indexed[path.name] ^ stored)
            where = "is only in the index" if tensor in indexed[path.name] else "is only in the file"
            raise WeightsError(f"{index} and {path.name} disagree: {shown(tensor)} {where}; fetch the whole set again")
    return paths
