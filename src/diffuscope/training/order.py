"""The order of the examples: one endless list for a seed, whatever the number of processes. No state to be saved."""

import functools

import torch
from torch import Tensor


def positions(seed: int, size: int, start: int, count: int) -> Tensor:
    """[count] int64 rows of ``size`` examples, at ``start`` and after in the order of ``seed``.

    The order is one permutation after the other, so that each example comes once an epoch.
    """
    parts = []
    while count > 0:
        epoch, offset = divmod(start, size)
        parts.append(_epoch(seed, size, epoch)[offset : offset + count])
        start, count = start + len(parts[-1]), count - len(parts[-1])
    return torch.cat(parts)


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, size: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 64))
    return torch.randperm(size, generator=generator)
