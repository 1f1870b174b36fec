"""safetensors files, checked before they are read and mapped into memory."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from diffuscope.errors import ModelNotFoundError, WeightsError, is_out_of_memory, shown
from diffuscope.output import replacing
from diffuscope.weights.store.headers import Header, TensorInfo, data_start, read_header, refuse

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
        if is_out_of_memory(error):
            raise
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
    """The tensors, read one by one through a buffer and converted: on a CUDA device there, beside the next reading."""
    size, cuda = max((info.end - info.start for info in infos.values()), default=0), torch.device(device).type == "cuda"
    buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=cuda) for _ in range(1 + cuda)]
    copied: list[torch.cuda.Event | None] = [None, None]
    tensors = {}
    with path.open("rb") as file:
        data = data_start(path)
        for k, (name, info) in enumerate(sorted(infos.items(), key=lambda item: item[1].start)):
            file.seek(data + info.start)
            turn = k % len(buffers)
            if (event := copied[turn]) is not None:
                event.synchronize()
            part = buffers[turn][: info.end - info.start]
            if part.numel() and file.readinto(part.numpy().data) != part.numel():
                refuse(path, f"tensor {shown(name)} ends early", "it is truncated: download it again")
            tensor = part.view(TORCH[info.dtype]).reshape(info.shape)
            target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            if cuda:
                there = tensor.to(device, non_blocking=True)
                copied[turn] = torch.cuda.current_stream(there.device).record_event()
                tensors[name] = there.to(target)
            else:
                tensors[name] = tensor.to(device, target, copy=True)
        for event in copied:
            if event is not None:
                event.synchronize()  # before the buffers are given back
    return tensors


def write(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically. Tensors may be on any device and in any memory format."""
    with replacing(path) as part:
        mode = part.stat().st_mode
        try:
            safetensors.torch.save_file({k: _own(v) for k, v in tensors.items()}, part, dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(0, str(error)) from error
        part.chmod(mode)  # the library makes its files private; these are like any other new file


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
