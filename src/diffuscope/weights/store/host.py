"""The bytes of tensors in the host's memory, piece by piece: what is on a GPU is copied beside the reading."""

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 1 << 23
"""Bytes of a piece, about; so much memory of the GPU is taken where a tensor has to be put in order."""


class Host:
    """Reads tensors; keeps the two buffers through which those of a GPU come."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)]

    def pieces(self, tensor: Tensor) -> Iterator[memoryview]:
        """The tensor's bytes in the order of its indices. A piece is valid until the next but one is asked for."""
        if tensor.is_cuda:
            yield from self.staged(tensor.detach())
        else:
            yield _bytes(tensor.detach().cpu()).numpy().data

    def staged(self, tensor: Tensor) -> Iterator[memoryview]:
        """The same through the buffers: one is filled while the other is read."""
        rows = tensor if tensor.ndim else tensor[None]
        count = max(1, PIECE // max(1, rows[:1].nbytes))
        before: tuple[Tensor, torch.cuda.Event | None] | None = None
        for turn, part in enumerate(rows.split(count)):
            values = _bytes(part)
            buffer = self._buffer(turn % 2, len(values), pinned=tensor.is_cuda)
            buffer.copy_(values, non_blocking=True)
            event = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None
            if before is not None:
                yield _ready(*before)
            before = buffer, event
        if before is not None:
            yield _ready(*before)

    def _buffer(self, turn: int, size: int, *, pinned: bool) -> Tensor:
        if len(self._buffers[turn]) < size:
            self._buffers[turn] = torch.empty(max(size, PIECE), dtype=torch.uint8, pin_memory=pinned)
        return self._buffers[turn][:size]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _ready(buffer: Tensor, event: torch.cuda.Event | None) -> memoryview:
    if event is not None:
        event.synchronize()
    return buffer.numpy().data
