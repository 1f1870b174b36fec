"""Weight files opened without reading their tensors: safetensors, or a pickle where that is allowed."""

import mmap
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.errors import WeightsError, shown
from diffuscope.weights.store import files, headers
from diffuscope.weights.store.headers import Header, TensorInfo

PICKLE_MAGIC = (b"PK\x03\x04", b"\x80")
NESTS = ("state_dict", "model", "params_ema", "params")  # keys under which trainers keep the tensors of a network

DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, OSError),
    *(IndexError, ImportError, MemoryError, OverflowError, AssertionError),
)
"""What torch's reader raises on a damaged pickle, or one with more than tensors."""

GLOBAL = re.compile(r"GLOBAL ([\w.]+)|([\w.]+) was not an allowed global")  # what torch refuses to call
BUFFER = b"bytearray"  # what torch's reader lets a pickle call with any length
PICKLE_LIMIT = 1 << 26  # bytes of the pickle in an archive; that of a checkpoint with an optimiser is a hundredth of it
FORMATS = {dtype: name for name, dtype in files.TORCH.items()}


@dataclass(frozen=True)
class Store:
    """An open weight file: its header, and its tensors on demand."""

    path: Path
    header: Header
    tensors: Mapping[str, Tensor] | None = None  # of a pickle, mapped where torch can; None for safetensors

    def read(
        self,
        names: Iterable[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """The named tensors, or all; ``dtype`` is for floats, None leaves them as they are."""
        if self.tensors is None:
            return files.read(self.path, names, header=self.header, dtype=dtype, device=device)
        chosen = self.tensors if names is None else {name: self.tensors[name] for name in names}
        return {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in chosen.items()}


def open_store(path: str | Path, *, allow_pickle: bool = False) -> Store:
    """Open a weight file; of safetensors only the header is read.

    ``allow_pickle`` also opens files that torch pickled (.ckpt, .pt, .bin). torch's own restricted reader builds
    tensors and plain containers only; anything else in the file is an error, and none of it is run.
    """
    path = Path(path)
    if allow_pickle and is_pickle(path):
        tensors = _read_pickle(path)
        return Store(path, _header(tensors), tensors)
    return Store(path, headers.read_header(path))


def is_pickle(path: Path) -> bool:
    """Whether a file begins as one that torch pickled, and not as safetensors, whose length may be any bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return head.startswith(PICKLE_MAGIC) and head[8:] != b"{"


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _check_sizes(path)
    try:
        content = _unpickled(path)
    except DAMAGE as error:  # without torch's advice to read it all the same
        named = GLOBAL.search(str(error))
        why = f", {shown(named[1])}" if named else f", or is damaged ({type(error).__name__})"
        why = f"it is a pickle that holds more than tensors{why}"
        raise WeightsError(f"{path} is refused: {why}; nothing of it was run. Give the model as safetensors") from None
    for key in NESTS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a dict of tensors; give another file")
    tensors = dict(_tensors(content, ""))
    if not tensors:
        if any(isinstance(key, int) and isinstance(value, tuple | list) for key, value in content.items()):
            raise WeightsError(f"{path} is a hypernetwork of AUTOMATIC1111's web UI, which is not supported")
        raise WeightsError(f"{path} holds no tensor; give another file")
    for name, tensor in tensors.items():  # what no header can describe
        if tensor.dtype not in FORMATS or tensor.layout != torch.strided or tensor.is_quantized:
            headers.refuse(path, f"tensor {shown(name)} is {tensor.dtype} of layout {tensor.layout}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            headers.refuse(path, f"tensor {shown(name)} of shape {list(tensor.shape)} repeats few numbers")
    return tensors


def _check_sizes(path: Path) -> None:
    """Refuse what takes memory that the file does not have: compressed members, long pickles, buffers of zeros."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                pickles = [member for member in members if member.filename.endswith(".pkl")]
                if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                    headers.refuse(path, "it is a compressed archive, which torch does not write")
                if sum(member.file_size for member in pickles) > PICKLE_LIMIT:
                    headers.refuse(path, f"its pickle is longer than {PICKLE_LIMIT} bytes")
                asks = any(BUFFER in archive.read(member) for member in pickles)
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError):
            headers.refuse(path, "it is a damaged archive", "download it again")
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            asks = content.find(BUFFER) >= 0
    if asks:
        headers.refuse(path, "it asks for a bytearray, which no tensor needs")


def _unpickled(path: Path) -> Any:
    """What torch's restricted reader builds from a file, memory-mapped where it can be."""
    if path.suffix != ".safetensors":  # torch.load refuses it with that suffix
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # a file of before 2020 cannot be mapped; a damaged one fails again below
            pass
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(content: Mapping[Any, Any], prefix: str) -> Iterable[tuple[str, Tensor]]:
    """The tensors of a dict and, one level down, of the dicts in it; the rest is the trainer's state."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and not prefix:
            yield from _tensors(value, f"{key}.")


def _header(tensors: Mapping[str, Tensor]) -> Header:
    """A header as the tensors would have in a safetensors file."""
    position, infos = 0, {}
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        infos[name] = TensorInfo(FORMATS[tensor.dtype], tuple(tensor.shape), position, end)
        position = end
    return Header(infos, {})
