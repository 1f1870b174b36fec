"""The hash of a network's weights, in a thread of its own."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor

from diffuscope.weights.store import stamps
from diffuscope.weights.store.host import Host


class Hash(Thread):
    """Of tensors as they are now; on a CUDA device from a stream of its own, after what wrote them."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        """``dtype`` is that of the network, where the tensors have another."""
        super().__init__(daemon=True)
        self._dtype = dtype
        self._tensors: Mapping[str, Tensor] | None = tensors
        self._found: str | None = None
        device = next((each.device for each in tensors.values() if each.is_cuda), None)
        self.stream = None if device is None else torch.cuda.Stream(device)
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self.start()

    def run(self) -> None:
        """Hash, and let go of the tensors."""
        assert self._tensors is not None
        with torch.cuda.stream(self.stream):  # on no stream it does nothing
            self._found = weights_hash(self._tensors, self._dtype)
        self._tensors = None

    def result(self) -> str:
        """The hash, in hex."""
        self.join()
        if self._found is None:  # the thread failed before its end
            self.run()
        assert self._found is not None
        return self._found


class FileHash:
    """Of tensors mapped from files, begun while a device reads the same ones."""

    def __init__(self, mapped: Mapping[str, Tensor], dtype: torch.dtype, files: Iterable[Path]) -> None:
        self.hash = Hash(mapped, dtype)
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


def weights_hash(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256 in hex of a network's tensors under our names, independent of file and layout; of a ``dtype``."""
    digest, host = hashlib.sha256(), Host()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor if dtype is None else tensor.to(dtype)
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        for piece in host.pieces(tensor):
            digest.update(piece)
    return digest.hexdigest()
