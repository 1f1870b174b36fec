"""Work that a thread gives a GPU beside the calls that others launch there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_own = threading.local()


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Within, this thread's work waits for what the device was given before, but for no call that others launch later.

    Otherwise a look at a value waits for all of them, and keeps the driver from launching the next meanwhile.
    """
    if device.type != "cuda":
        yield
        return
    stream: torch.cuda.Stream | None = getattr(_own, "stream", None)
    if stream is None:
        stream = _own.stream = torch.cuda.Stream(device, priority=-1)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()  # what it reads may be freed now, and be written to by the calls


def own_stream(x: Tensor) -> torch.cuda.Stream | None:
    """The stream of this thread, if it is not the one on which the calls are made."""
    if not x.is_cuda or (stream := torch.cuda.current_stream(x.device)) == torch.cuda.default_stream(x.device):
        return None
    return stream
