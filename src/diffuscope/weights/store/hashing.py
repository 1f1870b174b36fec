"""The hash of a network's weights, in a thread of its own."""

import atexit
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import torch
from torch import Tensor

from diffuscope.weights.store.host import Host


class Hash(Thread):
    """Of tensors as they are now; on a CUDA device from a stream of its own, after what wrote them.

    Where Python ends meanwhile, it is given up: a thread that Python cuts off within torch aborts the process.
    """

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, threads: int = 1) -> None:
        """``dtype`` is that of the network, where the tensors have another."""
        super().__init__(daemon=True)
        self._dtype, self._threads = dtype, threads
        self._tensors: Mapping[str, Tensor] | None = tensors
        self._found: str | None = None
        self._ends = Event()
        device = next((each.device for each in tensors.values() if each.is_cuda), None)
        self.stream = None if device is None else torch.cuda.Stream(device)
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))
        atexit.register(self.end)
        self.start()

    def run(self) -> None:
        """Hash, and let go of the tensors."""
        assert self._tensors is not None
        try:
            with torch.cuda.stream(self.stream):  # on no stream it does nothing
                found = weights_hash(self._tensors, self._dtype, self._threads, self._ends.is_set)
        finally:
            atexit.unregister(self.end)
        self._found, self._tensors = None if self._ends.is_set() else found, None

    def result(self) -> str:
        """The hash, in hex."""
        self.join()
        if self._found is None:  # the thread failed before its end
            self.run()
        assert self._found is not None
        return self._found

    def end(self) -> None:
        """Give it up."""
        self._ends.set()
        self.join()


def weights_hash(
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    threads: int = 1,
    ends: Callable[[], bool] = lambda: False,
) -> str:
    """SHA-256 in hex of a network's tensors under our names, independent of file and layout; of a ``dtype``.

    It is that of the tensors' own SHA-256, of which several ``threads`` make some each if they are on the CPU. When
    ``ends`` says so it is cut short, and of nothing.
    """
    host = Host()

    def hashed(name: str) -> bytes:
        digest = hashlib.sha256()
        for piece in () if ends() else named_bytes(name, tensors[name].to(dtype or tensors[name].dtype), host):
            digest.update(piece)
        return digest.digest()

    with ThreadPoolExecutor(threads) as pool:
        found = map(hashed, sorted(tensors)) if threads == 1 else pool.map(hashed, sorted(tensors))
        return hashlib.sha256(b"".join(found)).hexdigest()


def named_bytes(name: str, tensor: Tensor, host: Host) -> Iterator[bytes | memoryview]:
    """What is hashed of a tensor."""
    yield f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode()
    yield from host.pieces(tensor)
