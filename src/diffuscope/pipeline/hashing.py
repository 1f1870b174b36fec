"""The hashes of a model's weights, computed once, beside the first run."""

import hashlib
from collections.abc import Mapping
from threading import Thread

import torch
from torch import Tensor

from diffuscope.adapters.loras import Adapters
from diffuscope.weights.store.host import Host


class Hashing(Thread):
    """Begins to hash the networks' tensors as they are now, without any LoRA; ``result`` waits for it."""

    def __init__(self, adapters: Adapters) -> None:
        super().__init__(daemon=True)
        networks = {name: adapters.unchanged(name) for name in adapters.networks}
        self._networks: dict[str, dict[str, Tensor]] | None = networks
        self._found: dict[str, str] | None = None
        devices = {tensor.device for each in networks.values() for tensor in each.values() if tensor.is_cuda}
        self._device = next(iter(devices), None)
        self._written = None if self._device is None else torch.cuda.current_stream(self._device).record_event()
        self.start()

    def run(self) -> None:
        """Hash; on a CUDA device from a stream of its own, after what wrote the weights."""
        if self._device is None or self._written is None:
            self._hash()
            return
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.Stream(self._device)):
            torch.cuda.current_stream().wait_event(self._written)
            self._hash()

    def _hash(self) -> None:
        assert self._networks is not None
        self._found = {name: weights_hash(each) for name, each in self._networks.items()}
        self._networks = None

    def leave(self) -> None:
        """Wait for it, if it holds memory of a device."""
        if self._device is not None:
            self.join()

    def result(self) -> dict[str, str]:
        """SHA-256 of each network, in hex."""
        self.join()
        if self._found is None:  # the thread failed before its end
            self._hash()
        assert self._found is not None
        return self._found


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex of a network's tensors under our names, independent of file and layout."""
    digest, host = hashlib.sha256(), Host()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode())
        for piece in host.pieces(tensor):
            digest.update(piece)
    return digest.hexdigest()
