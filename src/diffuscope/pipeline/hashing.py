"""The hashes of a model's weights, computed once, beside the first run, and the networks' beside each other."""

import hashlib
from collections.abc import Mapping
from threading import Thread

import torch
from torch import Tensor

from diffuscope.adapters.loras import Adapters
from diffuscope.weights.store.host import Host


class Hashing:
    """Begins to hash the networks' tensors as they are now, without any LoRA; ``result`` waits for it."""

    def __init__(self, adapters: Adapters) -> None:
        self._threads = {name: _Hash(adapters.unchanged(name)) for name in adapters.networks}

    def leave(self) -> None:
        """Wait for it, if it holds memory of a device."""
        for each in self._threads.values():
            if each.stream is not None:
                each.join()

    def result(self) -> dict[str, str]:
        """SHA-256 of each network, in hex."""
        return {name: each.result() for name, each in self._threads.items()}


class _Hash(Thread):
    """Of one network; on a CUDA device from a stream of its own, after what wrote the weights."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(daemon=True)
        self._tensors: dict[str, Tensor] | None = tensors
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
            self._found = weights_hash(self._tensors)
        self._tensors = None

    def result(self) -> str:
        """The hash, in hex."""
        self.join()
        if self._found is None:  # the thread failed before its end
            self.run()
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
