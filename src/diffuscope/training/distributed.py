"""Data-parallel training in the processes of ``torchrun`` or Ray Train; in a single process, these do nothing."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


def rank() -> int:
    """Rank of this process; rank 0 writes the files."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Connect the processes; yields the device of this one. ``cuda:LOCAL_RANK`` with NCCL, or the CPU with Gloo.

    A launcher that has connected them, as Ray Train does, has chosen the device and ends the connection.
    """
    if world_size() == 1:
        yield device
        return
    if distributed.is_initialized():
        yield torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        return
    # Its functions keep the group that is there when an optimiser imports them, and a group that is kept does not end:
    # a thread of Gloo that lets go of a tensor while Python ends aborts the process. Now there is none to keep.
    from torch.distributed import nn  # noqa: F401

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace ``tensors``, dense in memory, in place by their mean over the processes."""
    if world_size() > 1:
        parts = [_flat(tensor) for tensor in tensors]
        flat = torch.cat(parts)
        distributed.all_reduce(flat)
        flat /= world_size()
        torch._foreach_copy_(parts, flat.split([part.numel() for part in parts]))


def _flat(tensor: Tensor) -> Tensor:
    """[N] the numbers themselves, in their order in memory, which is the same in all processes."""
    return tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True)).view(-1)


def broadcast_scalar(number: float, device: torch.device) -> float:
    """``number`` of rank 0."""
    if world_size() == 1:
        return number
    value = torch.tensor(number, dtype=torch.float64, device=device)
    distributed.broadcast(value, 0)
    return value.item()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set in any process."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return bool(value.item())


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        distributed.barrier()
