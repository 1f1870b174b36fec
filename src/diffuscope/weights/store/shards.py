"""A network's tensors in several files, with an index of which tensor is in which file."""

from pathlib import Path

from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.weights.store import files

INDICES = ("{}.index.json", "{}.index.fp16.json")
"""Names of the index, from the name of the unsharded file."""


def find_index(whole: Path) -> Path | None:
    """The index of the shards of the file ``whole``, or None."""
    paths = (whole.with_name(name.format(whole.name)) for name in INDICES)
    return next((path for path in paths if path.is_file()), None)


def read_index(index: Path) -> tuple[Path, ...]:
    """The shards of a model, each checked to exist and to hold exactly the tensors that the index names."""
    table = files.read_json(index, "fetch it again").get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise WeightsError(f"{index} has no weight_map from tensors to files; fetch it again")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names {name!r}, expected .safetensors files beside it; fetch the model again")
    paths = tuple(index.with_name(name) for name in names)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{index} names {len(names)} files, of which {', '.join(missing)} are missing; fetch the whole set"
        )
    for path in paths:
        indexed = {tensor for tensor, name in table.items() if name == path.name}
        stored = files.read_header(path).tensors.keys()
        if indexed != stored:
            tensor = min(indexed ^ stored)
            where = "is only in the index" if tensor in indexed else "is only in the file"
            raise WeightsError(f"{index} and {path.name} disagree: {tensor!r} {where}; fetch the whole set again")
    return paths
