"""Kill a process that saves checkpoints, again and again: the last checkpoint always opens, and no file is left behind.

    python benchmarks/kills.py --kills 100

Each process saves without a pause and is killed (SIGKILL) at a random moment, in most cases in the middle of a file.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from diffuscope.training import checkpoints
from diffuscope.training.checkpoints import Progress
from diffuscope.training.muon import MuonAdamW

WIDTH = 512
NAME = "checkpoint.safetensors"


def state() -> tuple[nn.Module, nn.Module, MuonAdamW]:
    """A network, its average and its optimiser: a checkpoint of 12 MB."""
    torch.manual_seed(0)
    network, ema = (nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4))) for _ in range(2))
    return network, ema, MuonAdamW(network, 1e-2)


def save_for_ever(folder: Path, pipe: int) -> None:
    """Save one step after the other, and tell of it; every number of a checkpoint is its step."""
    network, ema, optimiser = state()
    path = folder / NAME
    step = checkpoints.restore(path, network, ema, optimiser, {}).step if path.exists() else 0
    while True:
        step += 1
        for value in (*network.parameters(), *ema.parameters(), *optimiser.state().values()):
            value.data.fill_(step)
        checkpoints.save(path, network, ema, optimiser, Progress(step, float(step)), {})
        os.write(pipe, f"{step}\n".encode())


def survived(folder: Path, told: int) -> bool:
    """Whether the checkpoint opens, is whole, and is at least the last one of which the process told."""
    network, ema, optimiser = state()
    step = checkpoints.restore(folder / NAME, network, ema, optimiser, {}).step
    values = (*network.parameters(), *ema.parameters(), *optimiser.state().values())
    return step >= told and all(bool((value == step).all()) for value in values)


def killed(folder: Path, pause: float) -> int:
    """The last step of which a process told that was killed ``pause`` seconds after the first."""
    readable, writable = os.pipe()
    process = os.fork()
    if process == 0:
        save_for_ever(folder, writable)
    os.close(writable)
    with os.fdopen(readable) as told:
        last = int(told.readline())
        time.sleep(pause)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return max([last, *map(int, told.read().split())])


def main() -> None:
    """Kill, look, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    moments, good, halves = random.Random(0), 0, 0
    for _ in range(arguments.kills):
        good += survived(folder, killed(folder, moments.uniform(0, 0.2)))
        halves += bool(list(folder.glob(".*.part")))
    checkpoints.save(folder / NAME, *state(), Progress(), {})
    left = len(list(folder.glob(".*.part")))
    print(f"{good} of {arguments.kills} kills survived; {halves} came in the middle of a file; {left} left behind")
    if good < arguments.kills or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
