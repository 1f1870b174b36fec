"""A file of tensors that is looked into before it is read: safetensors, or a pickle where that is allowed."""

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.errors import WeightsError
from diffuscope.weights.store import files
from diffuscope.weights.store.files import Header, TensorInfo

PICKLE_MAGIC = (b"PK\x03\x04", b"\x80")

NESTS = ("state_dict", "model", "params_ema", "params")
"""Keys under which trainers keep the tensors of a network."""

FORMATS = {dtype: name for name, dtype in files.TORCH.items()}


@dataclass(frozen=True)
class Store:
    """A file's header, and the way to its tensors."""

    path: Path
    header: Header
    tensors: Mapping[str, Tensor] | None = None
    """Those of a pickle, which has no header to begin with; None where they lie in the file still."""

    def read(
        self,
        names: Iterable[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """The tensors of those names, as ``files.read`` gives them."""
        if self.tensors is None:
            return files.read(self.path, names, dtype=dtype, device=device)
        found = {}
        for name in self.tensors if names is None else names:
            tensor = self.tensors[name]
            found[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        return found


def open_store(path: str | Path, *, allow_pickle: bool = False) -> Store:
    """The store of a weight file; of safetensors nothing but the header is read.

    Args:
        path: the file.
        allow_pickle: also open files that torch pickled (.ckpt, .pt, .bin). torch's own restricted reader builds
            tensors and plain containers only; anything else in the file is an error, and nothing of it runs.

    Raises:
        WeightsError: the file is damaged, or a pickle that is not allowed, or one that holds more than tensors.
    """
    path = Path(path)
    if allow_pickle and is_pickle(path):
        tensors = _read_pickle(path)
        return Store(path, _header(tensors), tensors)
    return Store(path, files.read_header(path))


def is_pickle(path: Path) -> bool:
    """Whether a file begins as one that torch pickled."""
    try:
        with path.open("rb") as file:
            return file.read(9).startswith(PICKLE_MAGIC) and not _is_safetensors(path)
    except OSError:
        return False


def _is_safetensors(path: Path) -> bool:
    """Whether the ninth byte opens a header: its length may begin with any byte."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = _unpickled(path)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error
    except (EOFError, OSError, IndexError, ImportError, MemoryError, OverflowError, AssertionError) as error:
        raise _unreadable(path, error) from error
    for key in NESTS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, wanted a table of tensors; give another file")
    tensors = dict(_tensors(content, ""))
    if not tensors:
        raise WeightsError(f"{path} holds no tensor; give another file")
    for name, tensor in tensors.items():
        if tensor.dtype not in FORMATS or tensor.layout != torch.strided or tensor.is_quantized:
            raise WeightsError(f"{path} is refused: tensor {name!r} is {tensor.dtype} of layout {tensor.layout}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise WeightsError(f"{path} is refused: tensor {name!r} of shape {list(tensor.shape)} repeats few numbers")
    return tensors


def _unpickled(path: Path) -> Any:
    """What torch's restricted reader makes of a file, mapped where it can be."""
    if path.suffix != ".safetensors":  # by which torch knows a file that is none
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # of before 2020, which cannot be mapped; or damaged, as the next line says
            pass
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _tensors(content: Mapping[Any, Any], prefix: str) -> Iterable[tuple[str, Tensor]]:
    """The tensors of a table and, one level down, of the tables in it; the rest is a trainer's own."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and not prefix:
            yield from _tensors(value, f"{key}.")


def _header(tensors: Mapping[str, Tensor]) -> Header:
    position, infos = 0, {}
    for name, tensor in tensors.items():
        end = position + tensor.nbytes
        infos[name] = TensorInfo(FORMATS[tensor.dtype], tuple(tensor.shape), position, end)
        position = end
    return Header(infos, {})


def _unreadable(path: Path, error: Exception) -> WeightsError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return WeightsError(
        f"{path} is refused: it is a pickle that holds more than tensors, or is damaged ({first}); "
        "nothing of it was run. Give the model as safetensors"
    )
