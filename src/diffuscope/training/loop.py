"""The one training loop.

Started by ``torchrun --nproc-per-node N`` within ``ranks.joined``, every process draws other data, gradients are
averaged, and process 0 writes.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.training import checkpoints, curves, ranks
from diffuscope.training.checkpoints import Progress
from diffuscope.training.muon import MuonAdamW

_CLOCK_EVERY = 10  # steps between two looks at the clock, where several processes train


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
        if self.warmup < 1:
            raise InputError(f"warmup is {self.warmup}; it takes at least 1 step")


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


def train(
    task: Task,
    config: LoopConfig,
    folder: Path,
    *,
    stop_after: float | None = None,
    saved: Callable[[nn.Module], None] = lambda _: None,
) -> nn.Module:
    """The averaged network at the end of the run.

    Writes ``folder/log.jsonl`` (a line every ``log_every`` steps, a line per validation), ``folder/curves.png`` at the
    end, and ``folder/checkpoint.safetensors``, from which a later call with the same folder goes on.

    Args:
        task: network, loss and data.
        config: the run.
        folder: made if it does not exist.
        stop_after: seconds after which this call saves and returns although the run is not at its end.
        saved: called with the averaged network after every checkpoint, so that a run that is cut off leaves a model.
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
    run = _Run(task, config, folder, average, optimiser, progress, saved)
    end = math.inf if stop_after is None else progress.seconds + stop_after
    while run.fraction() < 1.0 and progress.seconds < end:
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
        saved: Callable[[nn.Module], None],
    ) -> None:
        self.task, self.config, self.folder, self.on_save = task, config, folder, saved
        self.average, self.optimiser, self.progress = average, optimiser, progress
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        self.averaged: list[Tensor] = [p.detach() for p in average.parameters()]
        self.current: list[Tensor] = [p.detach() for p in task.network.parameters()]
        self.device = self.parameters[0].device
        self.generator = torch.Generator(self.device)
        self.clock = time.monotonic()
        self.compiling = True
        self.norm = torch.zeros(())
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
        seed = (self.config.seed * 1_000_003 + step) * 4096 + ranks.rank()
        draw = Draw(self.generator.manual_seed(seed), seed, step, fraction)
        loss, numbers = self.task.loss(draw)
        loss.backward()
        ranks.share_mean(p.grad for p in self.parameters if p.grad is not None)
        self.norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimiser.step(rate(self.config, step, fraction))
        # Early on a long memory would average over noise: the decay grows with the steps made.
        decay = min(self.config.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averaged, self.current, 1 - decay)
        self.progress.step += 1
        if step % self.config.log_every == 0:
            self._check_finite()
            values = {"loss": loss.item(), "gradient": self.norm.item(), "rate": rate(self.config, step, fraction)}
            self._log(values | {name: value.item() for name, value in numbers.items()})
        self._tick()

    def _tick(self) -> None:
        # All processes must stop at the same step, so the first one's clock counts; asking it waits for the device.
        if ranks.world() == 1 or self.progress.step % _CLOCK_EVERY == 0:
            now = time.monotonic()
            # The first step of a call compiles; that is no training time, nor is what validating and saving take.
            passed = 0.0 if self.compiling else now - self.clock
            self.progress.seconds += ranks.first_says(passed, self.device)
            self.compiling, self.clock = False, now
        if self.progress.seconds - self.validated >= self.config.validate_every:
            self.validated = self.progress.seconds
            self._validate()
            self.clock = time.monotonic()
        if self.progress.seconds - self.saved >= self.config.save_every:
            self.saved = self.progress.seconds
            self._save()
            self.clock = time.monotonic()

    def finish(self) -> None:
        """Validate and save a last time, and draw the curves."""
        self._validate()
        self._save()
        if ranks.rank() == 0:
            curves.draw(self.folder / "log.jsonl", self.folder / "curves.png")

    def _check_finite(self) -> None:
        if not math.isfinite(self.norm.item()):
            raise RuntimeError(
                f"the gradient's norm became {self.norm.item()} by step {self.progress.step - 1}; "
                f"go on from {self.folder / 'checkpoint.safetensors'} with a lower lr"
            )

    def _validate(self) -> None:
        if ranks.rank() == 0:
            self._log({f"validation.{name}": value for name, value in self.task.validate(self.average).items()})

    def _save(self) -> None:
        self._check_finite()  # a checkpoint of no numbers would spoil the run for ever
        if ranks.rank() == 0:
            path = self.folder / "checkpoint.safetensors"
            checkpoints.save(path, self.task.network, self.average, self.optimiser, self.progress)
            self.on_save(self.average)

    def _log(self, numbers: dict[str, float]) -> None:
        if ranks.rank() == 0:
            line = asdict(self.progress) | numbers
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps({key: float(f"{value:.6g}") for key, value in line.items()}) + "\n")
