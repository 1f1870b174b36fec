"""The hash of a network's weights, in a thread of its own."""

import atexit
import hashlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from diffuscope.weights.store.host import Host


class Hash(threading.Thread):
    """Of tensors as they are now; on a CUDA device from a stream of its own, after what wrote them."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, threads: int = 1) -> None:
        """``dtype`` is that of the network, where the tensors have another."""
        super().__init__(daemon=True)
        self._dtype, self._threads = dtype, threads
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
            self._found = weights_hash(self._tensors, self._dtype, self._threads)
        self._tensors = None

    def result(self) -> str:
        """The hash, in hex."""
        self.join()
        if self._found is None:  # the thread failed before its end
            self.run()
        assert self._found is not None
        return self._found


@atexit.register
def _end() -> None:
    """Give up what is under way: a thread that Python cuts off within torch aborts the process."""
    for each in threading.enumerate():
        if isinstance(each, Hash):
            each.join()


def weights_hash(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None, threads: int = 1) -> str:
    """SHA-256 in hex of a network's tensors under our names, independent of file and layout; of a ``dtype``.

    It is that of the tensors' own SHA-256, of which several ``threads`` make some each if they are on the CPU.
    """
    host = Host()

    def hashed(name: str) -> bytes:
        if not threading.main_thread().is_alive():  # Python ends
            raise SystemExit
        digest = hashlib.sha256()
        for piece in named_bytes(name, tensors[name].to(dtype or tensors[name].dtype), host):
            digest.update(piece)
        return digest.digest()

    with ThreadPoolExecutor(threads) as pool:
        found = map(hashed, sorted(tensors)) if threads == 1 else pool.map(hashed, sorted(tensors))
        return hashlib.sha256(b"".join(found)).hexdigest()


def named_bytes(name: str, tensor: Tensor, host: Host) -> Iterator[bytes | memoryview]:
    """What is hashed of a tensor."""
    yield f"{name}:{tensor.dtype}:{list(tensor.shape)}:".encode()
    yield from host.pieces(tensor)
