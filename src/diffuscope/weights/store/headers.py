"""The headers of safetensors files, checked by the format's own library before any tensor is read. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from diffuscope.errors import WeightsError, shown
from diffuscope.weights.store.documents import unique

DIMENSIONS_LIMIT = 16  # of a tensor; a product of a million of them would take hours
DTYPES = {"BOOL", "BF16", "F8_E4M3", "F8_E5M2", *(f"{kind}{bits}" for kind in "UIF" for bits in (8, 16, 32, 64))}
"""Of the format, those that torch has too."""

FOREIGN = {
    b"PK\x03\x04": "a zip archive, so most likely a pickled checkpoint, which can run code",
    b"\x80": "a pickle, which can run code",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (run `git lfs pull`)",
    b"<": "a web page, not a model",
    b"GGUF": "a GGUF file",
}
"""First bytes of other formats -> what they are."""

PICKLES = ", or allow pickles (allow_pickle=True), of which only tensors are read and nothing is run"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's entry in the header."""

    dtype: str  # a key of ``TORCH``
    shape: tuple[int, ...]
    start: int  # byte after the header
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """The header of a safetensors file, checked in full against the file's size. No tensor is read."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(32)
            if head[8:9] != b"{":
                for magic, kind in FOREIGN.items():
                    if head.startswith(magic):
                        way = PICKLES if "which can run code" in kind else ""
                        refuse(path, f"it is {kind}", f"give the model's .safetensors file{way}")
            with safe_open(path, framework="numpy"):
                file.seek(8)
                content = file.read(int.from_bytes(head[:8], "little"))
        entries = json.loads(content, object_pairs_hook=unique)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}; give the path of a safetensors file") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        refuse(path, shown(str(error).removeprefix("Error while deserializing header: "))[1:-1])
    metadata = entries.pop("__metadata__", None) or {}
    tensors = {
        name: TensorInfo(each["dtype"], tuple(each["shape"]), *each["data_offsets"]) for name, each in entries.items()
    }
    for name, info in tensors.items():
        if info.dtype not in DTYPES or len(info.shape) > DIMENSIONS_LIMIT:
            refuse(
                path, f"tensor {shown(name)} is {info.dtype} of {len(info.shape)} dimensions, which is not supported"
            )
    return Header(tensors, metadata)


def data_start(path: Path) -> int:
    """The byte of a safetensors file at which its header ends and its data start."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def is_shape(value: Any) -> bool:
    """Whether a JSON value is the shape of a tensor: a few natural numbers."""
    is_short = isinstance(value, list) and len(value) <= DIMENSIONS_LIMIT
    return is_short and all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def refuse(path: Path, what: str, todo: str = "download or save it again as safetensors") -> NoReturn:
    """WeightsError for a file that is damaged or something else."""
    raise WeightsError(f"{path} is refused: {what}; {todo}")
