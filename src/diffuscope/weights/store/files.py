"""Files: safetensors, checked before they are read and mapped into memory; JSON; and atomic writes."""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from diffuscope.errors import ModelNotFoundError, OutputError, WeightsError, shown
from diffuscope.output import replacing

HEADER_LIMIT = 100_000_000
"""Bytes; the limit of the format's own library."""

DIMENSIONS_LIMIT = 16
"""Of a tensor; a product of a million of them would take hours."""

JSON_LIMIT = 1 << 24
"""Bytes of a JSON file; a tokenizer's is a quarter of it, a configuration a thousandth."""

TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
"""dtypes of the format -> of torch."""

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
        _refuse(path, "its metadata is not a table of strings")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in header.items()}
    _check_layout(path, tensors, data_size)
    return Header(tensors, metadata)


def read(
    path: str | Path,
    names: Iterable[str] | None = None,
    *,
    header: Header | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The named tensors, or all, of a safetensors file; ``dtype`` is for floats, None leaves them as they are.

    On the CPU and without a conversion they are mapped from the file; writing to them leaves it as it is. Others are
    read one after the other, so that no more than one of them is ever in memory twice.
    """
    infos = (read_header(path) if header is None else header).tensors
    names = list(infos if names is None else names)
    missing = [name for name in names if name not in infos]
    if missing:
        raise WeightsError(f"{path} has no tensor {shown(missing[0])}; give another file")
    infos = {name: infos[name] for name in names}
    try:
        tensors = _mapped(Path(path), infos, dtype) if torch.device(device).type == "cpu" else {}
        tensors |= _converted(Path(path), {n: info for n, info in infos.items() if n not in tensors}, dtype, device)
    except (RuntimeError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; download or save it again") from error
    return {name: tensors[name] for name in names}


def _mapped(path: Path, infos: Mapping[str, TensorInfo], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors that need no conversion, as views of one private memory map of the file."""
    storage: Any = None
    data = data_start(path)
    tensors = {}
    for name, info in infos.items():
        own, start = TORCH[info.dtype], data + info.start
        if (dtype not in (None, own) and own.is_floating_point) or start % own.itemsize:
            continue  # a file of an odd header is not aligned
        if storage is None:
            storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
        stride = torch.empty(info.shape, device="meta").stride()
        tensors[name] = torch.empty(0, dtype=own).set_(storage, start // own.itemsize, info.shape, stride)
    return tensors


def _converted(
    path: Path, infos: Mapping[str, TensorInfo], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, Tensor]:
    """The tensors, read one by one through one buffer and converted."""
    buffer = torch.empty(max((info.end - info.start for info in infos.values()), default=0), dtype=torch.uint8)
    tensors = {}
    with path.open("rb") as file:
        data = data_start(path)
        for name, info in sorted(infos.items(), key=lambda item: item[1].start):
            file.seek(data + info.start)
            part = buffer[: info.end - info.start]
            if part.numel() and file.readinto(part.numpy().data) != part.numel():
                _refuse(path, f"tensor {shown(name)} ends early", "it is truncated: download it again")
            tensor = part.view(TORCH[info.dtype]).reshape(info.shape)
            target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            tensors[name] = tensor.to(device, target, copy=True)
    return tensors


def data_start(path: Path) -> int:
    """The byte of a safetensors file at which its header ends and its data start."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def write(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically. Tensors may be on any device and in any memory format."""
    with replacing(path) as part:
        mode = part.stat().st_mode
        try:
            safetensors.torch.save_file({k: _own(v) for k, v in tensors.items()}, part, dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(0, str(error)) from error
        part.chmod(mode)  # the library makes its files private; these are like any other new file


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
        document = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{source} cannot be read as JSON: {str(error)[:200]}; {todo}") from error
    if not isinstance(document, kind):
        raise WeightsError(f"{source} is a JSON {type(document).__name__}, expected a JSON object; {todo}")
    return document


def find_file(path: Path, names: Sequence[str], what: str) -> Path:
    """``path`` itself, or the first of ``names`` that is in the folder ``path``."""
    candidates = [path / name for name in names] if path.is_dir() else [path]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise ModelNotFoundError(
            f"no {what} at {path}; give a .safetensors file, or a folder with {' or '.join(names)}"
        )
    return file


def sha256(path: Path, start: int = 0) -> str:
    """The SHA-256 of a file from byte ``start`` on, in hexadecimal."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own(tensor: Tensor) -> Tensor:
    """The tensor on the CPU with a storage of its own."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _header_json(path: Path, file: BinaryIO, size: int) -> dict[str, Any]:
    head = file.read(32)
    if head[8:9] != b"{":
        for magic, kind in FOREIGN.items():
            if head.startswith(magic):
                way = PICKLES if "which can run code" in kind else ""
                _refuse(path, f"it is {kind}", f"give the model's .safetensors file{way}")
    if len(head) < 9:
        _refuse(path, f"it has {size} bytes, fewer than the smallest header", "it is truncated: download it again")
    length = int.from_bytes(head[:8], "little")
    if length > HEADER_LIMIT:
        _refuse(path, f"its header would be {length} bytes long, over the limit of {HEADER_LIMIT}")
    if 8 + length > size:
        _refuse(path, f"its header ends at byte {8 + length}, the file at {size}", "it is truncated: download it again")
    file.seek(8)
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not valid JSON ({str(error)[:200]})")
    if not isinstance(header, dict):
        _refuse(path, "its header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {shown(name)} twice")
    return table


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {shown(name)} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TORCH:
        _refuse(path, f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not is_shape(shape) or not _naturals(offsets) or len(offsets) != 2:
        numbers = f"shape {str(shape)[:99]} and offsets {str(offsets)[:99]}"
        _refuse(path, f"tensor {shown(name)} has {numbers}, which are not natural numbers, a few each")
    start, end = offsets
    wanted = prod(shape) * TORCH[dtype].itemsize
    if end - start != wanted:
        _refuse(
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
            _refuse(
                path, f"tensor {shown(name)} starts at byte {info.start} of the data, expected {position}: it {flaw}"
            )
        position = info.end
    if position > data_size:
        _refuse(
            path, f"its tensors take {position} bytes and {data_size} are there", "it is truncated: download it again"
        )
    if position < data_size:
        _refuse(path, f"its tensors take {position} bytes and {data_size} are there: bytes that nothing describes")


def _refuse(path: Path, what: str, todo: str = "download or save it again as safetensors") -> NoReturn:
    raise WeightsError(f"{path} is refused: {what}; {todo}")
