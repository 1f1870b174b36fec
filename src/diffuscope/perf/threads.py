"""What OpenMP's threads do while they wait for each other: sleep, or keep their cores."""

import os
import sys

import torch

SPINS = 10_000
"""Most turns of a waiting thread that do not slow the others down."""


def keep_their_cores() -> bool:
    """Whether waiting threads do so, by the settings that OpenMP read when torch was loaded."""
    spins, policy = os.environ.get("GOMP_SPINCOUNT", ""), os.environ.get("OMP_WAIT_POLICY", "").lower()
    return policy == "active" or (not policy and not (spins.isdecimal() and int(spins) <= SPINS))


def note() -> str | None:
    """A sentence where that makes a call on the CPU many times slower: other programs run on the cores too."""
    if sys.platform != "linux" or torch.get_num_threads() < 2 or not keep_their_cores():
        return None
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load < cores + 0.5:
        return None
    return (
        f"other programs use the cores too (load {load:.1f} on {cores}) and threads that wait keep theirs, which takes "
        "many times as long; import diffuscope before torch, or set OMP_WAIT_POLICY=passive"
    )
