"""The hash of a network's weights from their files, beside the device that reads them."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.weights.store import stamps
from diffuscope.weights.store.hashing import Hash

THREADS = 8
"""Most threads for a network, half of the cores at most."""


class FileHash(Hash):
    """Of tensors mapped from files, by several threads, begun while a device reads the same ones."""

    def __init__(self, mapped: Mapping[str, Tensor], dtype: torch.dtype, files: Iterable[Path]) -> None:
        super().__init__(mapped, dtype, max(1, min(THREADS, (os.cpu_count() or 1) // 2)))
        self._files = {path: path.stat() for path in files}
        self._places: dict[str, tuple[int, int]] = {}

    def read_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember where the device has them."""
        self._places = _places(tensors)

    def holds(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the device's still, and neither they nor the files have changed."""
        return self._places == _places(tensors) and stamps.changed(self._files) is None


def _places(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    return {name: (tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()}
