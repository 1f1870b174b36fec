"""Several processes that train one network, as ``torchrun`` starts them; alone, nothing here does anything."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


def rank() -> int:
    """This process's number, 0 for the one that writes."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """The device of this process, with the others connected: ``cuda:LOCAL_RANK`` and NCCL, or the CPU and Gloo."""
    if world() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def share_mean(tensors: Iterable[Tensor]) -> None:
    """Replace ``tensors``, in place, by their mean over the processes."""
    if world() > 1:
        parts = list(tensors)
        flat = torch.cat([part.flatten() for part in parts])
        distributed.all_reduce(flat)
        flat /= world()
        for part, value in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
            part.copy_(value.view_as(part))


def first_says(number: float, device: torch.device) -> float:
    """``number`` of process 0, in all of them."""
    if world() == 1:
        return number
    said = torch.tensor(number, dtype=torch.float64, device=device)
    distributed.broadcast(said, 0)
    return said.item()


def wait() -> None:
    """Until every process is here."""
    if world() > 1:
        distributed.barrier()
