"""The headers of safetensors files, checked in full before any tensor is read. Imports no torch."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from diffuscope.errors import WeightsError, shown
from diffuscope.weights.store.documents import unique

HEADER_LIMIT = 100_000_000  # bytes; the limit of the format's own library
DIMENSIONS_LIMIT = 16  # of a tensor; a product of a million of them would take hours

ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""dtypes of the format -> bytes."""

FOREIGN = {
    b"PK\x03\x04": "a zip archive, so most likely a pickled checkpoint, which can run code",
    b"\x80": "a pickle, which can run code",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (run `git lfs pull`)",
    b"<": "a web page, not a model",
    b"GGUF": "a GGUF file",
}
"""First bytes of other formats -> what they are."""

PICKLES = ", or allow pickles (allow_pickle=True, --allow-pickle), of which only tensors are read and nothing is run"


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
            size = os.fstat(file.fileno()).st_size
            header = _header_json(path, file, size)
            data_size = size - file.tell()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}; give the path of a safetensors file") from error
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        refuse(path, "its metadata is not a table of strings")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in header.items()}
    _check_layout(path, tensors, data_size)
    return Header(tensors, metadata)


def data_start(path: Path) -> int:
    """The byte of a safetensors file at which its header ends and its data start."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _header_json(path: Path, file: BinaryIO, size: int) -> dict[str, Any]:
    head = file.read(32)
    if head[8:9] != b"{":
        for magic, kind in FOREIGN.items():
            if head.startswith(magic):
                way = PICKLES if "which can run code" in kind else ""
                refuse(path, f"it is {kind}", f"give the model's .safetensors file{way}")
    if len(head) < 9:
        refuse(path, f"it has {size} bytes, fewer than the smallest header", "it is truncated: download it again")
    length = int.from_bytes(head[:8], "little")
    if length > HEADER_LIMIT:
        refuse(path, f"its header would be {length} bytes long, over the limit of {HEADER_LIMIT}")
    if 8 + length > size:
        refuse(path, f"its header ends at byte {8 + length}, the file at {size}", "it is truncated: download it again")
    file.seek(8)
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        refuse(path, f"its header is not valid JSON ({str(error)[:200]})")
    if not isinstance(header, dict):
        refuse(path, "its header is not a JSON object")
    return header


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"tensor {shown(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        refuse(path, f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not is_shape(shape) or not _naturals(offsets) or len(offsets) != 2:
        numbers = f"shape {str(shape)[:99]} and offsets {str(offsets)[:99]}"
        refuse(path, f"tensor {shown(name)} has {numbers}, which are not natural numbers, a few each")
    start, end = offsets
    wanted = prod(shape) * ITEM_SIZES[dtype]
    if end - start != wanted:
        refuse(
            path,
            f"tensor {shown(name)} takes {end - start} bytes, but {dtype} of shape {str(shape)[:99]} takes {wanted}",
        )
    return TensorInfo(dtype, tuple(shape), start, end)


def is_shape(value: Any) -> bool:
    """Whether a JSON value is the shape of a tensor: a few natural numbers."""
    return isinstance(value, list) and len(value) <= DIMENSIONS_LIMIT and _naturals(value)


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_size: int) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != position:
            flaw = "overlaps the one before it" if info.start < position else "leaves a hole before it"
            refuse(
                path, f"tensor {shown(name)} starts at byte {info.start} of the data, expected {position}: it {flaw}"
            )
        position = info.end
    if position > data_size:
        refuse(
            path, f"its tensors take {position} bytes and {data_size} are there", "it is truncated: download it again"
        )
    if position < data_size:
        refuse(path, f"its tensors take {position} bytes and {data_size} are there: bytes that nothing describes")


def refuse(path: Path, what: str, todo: str = "download or save it again as safetensors") -> NoReturn:
    """WeightsError for a file that is damaged or something else."""
    raise WeightsError(f"{path} is refused: {what}; {todo}")
