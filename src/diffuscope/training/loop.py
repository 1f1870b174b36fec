"""The one training loop.

``torchrun --nproc-per-node N`` needs nothing more: every rank draws other data (``Draw`` knows its rank), gradients
are averaged, rank 0 writes.
"""

import copy
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, distributed, nn

from diffuscope.errors import InputError
from diffuscope.training import checkpoints
from diffuscope.training.checkpoints import Progress
from diffuscope.training.muon import MuonAdamW


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """One run. Its length is ``steps``, or ``seconds`` of training where a lease is measured in time."""

    lr: float = 1e-3
    adam_ratio: float = 0.6
    weight_decay: float = 0.0
    steps: int | None = None
    seconds: float | None = None
    warmup: int = 200  # steps from 0 to the full learning rate
    hold: float = 0.35  # part of the run at the full rate, before the cosine
    floor: float = 0.02  # part of the full rate at the end
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.999  # decay of the moving average of the weights
    log_every: int = 50
    validate_every: float = 60.0  # seconds
    save_every: float = 60.0  # seconds
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise InputError(f"steps={self.steps} and seconds={self.seconds}: give one of the two")


@dataclass(frozen=True)
class Draw:
    """Randomness of one step, a pure function of seed, step and rank: a resumed run draws what it would have drawn."""

    generator: torch.Generator
    """On the network's device, seeded with ``seed``."""
    seed: int
    step: int
    progress: float
    """Part of the run that is done, in [0, 1)."""


class Task(Protocol):
    """What is learned, and from what."""

    network: nn.Module
    """Everything with a gradient. The loop averages it, saves it and restores it."""
    edges: tuple[str, ...]
    """Beginnings of the names of matrices that AdamW shall take: first and last layers."""

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a fresh batch, and numbers for the log (detached, on the device)."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Scores of the averaged network on data never trained on."""


def rate(config: LoopConfig, step: int, progress: float) -> float:
    """Factor of the learning rate: linear warm-up, flat for ``hold``, then a cosine down to ``floor``."""
    if progress <= config.hold:
        cosine = 1.0
    else:
        turn = (progress - config.hold) / (1 - config.hold)
        cosine = config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, turn)))
    return min(1.0, (step + 1) / config.warmup) * cosine


def train(task: Task, config: LoopConfig, folder: Path, *, stop_after: float | None = None) -> nn.Module:
    """The averaged network at the end of the run.

    Writes ``folder/log.jsonl`` (a line every ``log_every`` steps, a line per validation) and
    ``folder/checkpoint.safetensors``, from which a later call with the same folder goes on.

    Args:
        task: network, loss and data.
        config: the run.
        folder: made if it does not exist.
        stop_after: seconds after which this call saves and returns although the run is not at its end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(task.network).requires_grad_(False).eval()
    optimiser = MuonAdamW(
        task.network,
        config.lr,
        adam_ratio=config.adam_ratio,
        edges=task.edges,
        weight_decay=config.weight_decay,
    )
    checkpoint = folder / "checkpoint.safetensors"
    progress = Progress()
    if checkpoint.exists():
        progress = checkpoints.restore(checkpoint, task.network, average, optimiser)
    run = _Run(task, config, folder, average, optimiser, progress)
    begun = time.monotonic()
    while run.fraction() < 1.0:
        if stop_after is not None and time.monotonic() - begun > stop_after:
            break
        run.step()
    run.finish()
    return average


class _Run:
    """The moving parts of one call of ``train``."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        average: nn.Module,
        optimiser: MuonAdamW,
        progress: Progress,
    ) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.average, self.optimiser, self.progress = average, optimiser, progress
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        self.averaged: list[Tensor] = [p.detach() for p in average.parameters()]
        self.current: list[Tensor] = [p.detach() for p in task.network.parameters()]
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.generator = torch.Generator(self.parameters[0].device)
        self.clock = time.monotonic()
        self.compiling = True
        self.validated = self.saved = progress.seconds

    def fraction(self) -> float:
        """Part of the run that is done."""
        if self.config.steps is not None:
            return self.progress.step / self.config.steps
        assert self.config.seconds is not None
        return self.progress.seconds / self.config.seconds

    def step(self) -> None:
        """One update of the weights."""
        step = self.progress.step
        fraction = self.fraction()
        seed = (self.config.seed * 1_000_003 + step) * 4096 + self.rank
        draw = Draw(self.generator.manual_seed(seed), seed, step, fraction)
        loss, numbers = self.task.loss(draw)
        loss.backward()
        self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimiser.step(rate(self.config, step, fraction))
        # Early on a long memory would average over noise: the decay grows with the steps made.
        decay = min(self.config.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averaged, self.current, 1 - decay)
        self.progress.step += 1
        if step % self.config.log_every == 0:
            values = {name: value.item() for name, value in numbers.items()}
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"the loss became {loss.item()} at step {step}: {values}")
            self._log(
                {"loss": loss.item(), "gradient": norm.item(), "rate": rate(self.config, step, fraction)} | values
            )
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        # The first step of a call compiles; that is no training time, nor is what validating and saving take.
        self.progress.seconds += 0.0 if self.compiling else now - self.clock
        self.compiling = False
        if self.world > 1 and self.config.seconds is not None:
            # All ranks must stop at the same step: rank 0's clock counts.
            seconds = torch.tensor(self.progress.seconds, device=self.parameters[0].device)
            distributed.broadcast(seconds, 0)
            self.progress.seconds = seconds.item()
        if self.progress.seconds - self.validated >= self.config.validate_every:
            self.validated = self.progress.seconds
            self._validate()
        if self.progress.seconds - self.saved >= self.config.save_every:
            self.saved = self.progress.seconds
            self._save()
        self.clock = time.monotonic()

    def finish(self) -> None:
        """Validate and save a last time."""
        self._validate()
        self._save()

    def _share_gradients(self) -> None:
        if self.world == 1:
            return
        grads = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        flat /= self.world
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def _validate(self) -> None:
        if self.rank == 0:
            self._log({f"validation.{name}": value for name, value in self.task.validate(self.average).items()})

    def _save(self) -> None:
        if self.rank == 0:
            path = self.folder / "checkpoint.safetensors"
            checkpoints.save(path, self.task.network, self.average, self.optimiser, self.progress)

    def _log(self, numbers: dict[str, float]) -> None:
        if self.rank == 0:
            line = asdict(self.progress) | numbers
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps({key: float(f"{value:.6g}") for key, value in line.items()}) + "\n")
