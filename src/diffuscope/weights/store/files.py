"""safetensors files: checked before anything is read, mapped into memory, written whole or not at all."""

import contextlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from diffuscope.errors import OutputError, WeightsError

HEADER_LIMIT = 100_000_000
"""Bytes; the limit of the format's own library."""

DIMENSIONS_LIMIT = 16
"""Of a tensor; a product of a million of them would take hours."""

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}

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
"""The format's dtypes and torch's."""

FOREIGN = {
    b"PK\x03\x04": "a zip archive, so most likely a pickled checkpoint, which can run code",
    b"\x80": "a pickle, which can run code",
    b"version https://git-lfs": "a Git LFS pointer: the text that stands for a file not yet fetched (`git lfs pull`)",
    b"<": "a web page, not a model",
    b"GGUF": "a GGUF file",
}


PICKLES = ", or allow pickles (allow_pickle=True, --allow-pickle): its tensors are read then, and nothing of it is run"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file's header says of one tensor."""

    dtype: str
    """The format's name for it, such as ``F16``."""
    shape: tuple[int, ...]
    start: int
    end: int
    """Bytes from the end of the header."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands at the head of a safetensors file."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """The header of a safetensors file, checked in full against the file's size. No tensor is read.

    Raises:
        WeightsError: the file is missing, truncated, foreign, a pickle, or its header is inconsistent.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_json(path, file, size)
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
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Without a ``dtype`` and on the CPU they are mapped from the file; writing to them leaves it as it is. Those that
    have to change are read one after the other, so that no more than one of them is ever in memory twice.

    Args:
        path: the file.
        names: which of its tensors; None is all.
        dtype: of the numbers with a fraction; None leaves them as they are.
        device: where to.

    Raises:
        WeightsError: as ``read_header``, or a name is not in the file.
    """
    tensors = read_header(path).tensors
    names = list(tensors if names is None else names)
    missing = [name for name in names if name not in tensors]
    if missing:
        raise WeightsError(f"{path} has no tensor {missing[0]!r}; give another file")
    wanted = {name: tensors[name] for name in names}
    try:
        found = _mapped(Path(path), wanted, dtype) if torch.device(device).type == "cpu" else {}
        found |= _converted(Path(path), {n: info for n, info in wanted.items() if n not in found}, dtype, device)
    except (RuntimeError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; download or save it again") from error
    return {name: found[name] for name in names}


def _mapped(path: Path, tensors: Mapping[str, TensorInfo], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Those of the tensors that are wanted as they lie in the file, as views of one private map of it."""
    storage: Any = None
    data = _data_start(path)
    found = {}
    for name, info in tensors.items():
        own, start = TORCH[info.dtype], data + info.start
        if (dtype not in (None, own) and own.is_floating_point) or start % own.itemsize:
            continue  # a file of an odd header is not aligned
        if storage is None:
            storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
        stride = torch.empty(info.shape, device="meta").stride()
        found[name] = torch.empty(0, dtype=own).set_(storage, start // own.itemsize, info.shape, stride)
    return found


def _converted(
    path: Path, tensors: Mapping[str, TensorInfo], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, Tensor]:
    """Tensors read through one buffer, each as large as it has to be and no larger."""
    buffer = torch.empty(max((info.end - info.start for info in tensors.values()), default=0), dtype=torch.uint8)
    found = {}
    with path.open("rb") as file:
        data = _data_start(path)
        for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
            file.seek(data + info.start)
            part = buffer[: info.end - info.start]
            if part.numel() and file.readinto(part.numpy().data) != part.numel():
                _refuse(path, f"tensor {name!r} ends early", "it is truncated: download it again")
            tensor = part.view(TORCH[info.dtype]).reshape(info.shape)
            target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            found[name] = tensor.to(device, target, copy=True)
    return found


def _data_start(path: Path) -> int:
    """Where the header ends."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def write(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whole, or leave what is there as it is.

    Args:
        path: the file; its folder exists.
        tensors: by name, on any device, in any memory format. Not modified.
        metadata: strings that go into the header.

    Raises:
        OutputError: there is no such folder, no permission or no space.
    """
    with replacing(path) as part:
        mode = part.stat().st_mode
        safetensors.torch.save_file({k: _own(v) for k, v in tensors.items()}, part, dict(metadata or {}))
        part.chmod(mode)  # the library makes its files private; these are like any other new file


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole, or leave what is there as it is; errors as ``write``."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def make_folder(path: str | Path) -> None:
    """Make a folder, and those above it, unless they are there.

    Raises:
        OutputError: no permission, no space, or a file is in the way.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {path} cannot be made: {error.strerror}; give another place") from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place, once the block ends and the disk has it, or vanishes.

    Raises:
        OutputError: there is no such folder, no permission or no space.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch(exist_ok=False)  # in a folder for everybody, nobody can have put a link there
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OutputError(
            f"{path} cannot be written: {reason}; give a folder that exists, with permission and space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _own(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _read_json(path: Path, file: BinaryIO, size: int) -> dict[str, Any]:
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
        _refuse(path, f"its header is not valid JSON ({error})")
    if not isinstance(header, dict):
        _refuse(path, "its header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {name!r} twice")
    return table


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        _refuse(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > DIMENSIONS_LIMIT:
        numbers = f"shape {str(shape)[:99]} and offsets {str(offsets)[:99]}"
        _refuse(path, f"tensor {name!r} has {numbers}, which are not natural numbers, a few each")
    start, end = offsets
    wanted = prod(shape) * BYTES[dtype]
    if end - start != wanted:
        _refuse(path, f"tensor {name!r} takes {end - start} bytes, but {dtype} of shape {shape} takes {wanted}")
    return TensorInfo(dtype, tuple(shape), start, end)


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def _check_layout(path: Path, tensors: Mapping[str, TensorInfo], data_size: int) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != position:
            flaw = "overlaps the one before it" if info.start < position else "leaves a hole before it"
            _refuse(path, f"tensor {name!r} starts at byte {info.start} of the data, wanted {position}: it {flaw}")
        position = info.end
    if position > data_size:
        _refuse(
            path, f"its tensors take {position} bytes and {data_size} are there", "it is truncated: download it again"
        )
    if position < data_size:
        _refuse(path, f"its tensors take {position} bytes and {data_size} are there: bytes that nothing describes")


def _refuse(path: Path, what: str, todo: str = "download or save it again as safetensors") -> NoReturn:
    raise WeightsError(f"{path} is refused: {what}; {todo}")
