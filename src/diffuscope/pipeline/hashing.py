"""The hashes of a model's weights, computed once; for a CUDA device beside the first run, which does not wait."""

from collections.abc import Mapping
from threading import Thread

import torch
from torch import Tensor

from diffuscope.pipeline.receipt import weights_hash

Networks = Mapping[str, Mapping[str, Tensor]]
"""Network -> its tensors."""


class Hashing(Thread):
    """Begins to hash the networks' tensors as they are now; ``result`` waits for it.

    On a CPU a thread beside the run would take a core from it.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__(daemon=True)
        self._networks: Networks | None = networks
        self._found: dict[str, str] | None = None
        self._written = torch.cuda.Event()
        self._written.record()
        self.start()

    def run(self) -> None:
        """Copy and hash on a stream of its own, after what wrote the weights."""
        assert self._networks is not None
        tensors = [tensor for each in self._networks.values() for tensor in each.values()]
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), torch.device("cuda"))
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            torch.cuda.current_stream().wait_event(self._written)
            self._found = {name: weights_hash(each) for name, each in self._networks.items()}
        self._networks = None

    def result(self) -> dict[str, str]:
        """SHA-256 of each network, in hex."""
        self.join()
        if self._found is None:
            assert self._networks is not None  # the thread failed before its end
            self._found = {name: weights_hash(each) for name, each in self._networks.items()}
        return self._found
