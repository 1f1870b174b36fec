"""The one training loop.

Started by ``torchrun --nproc-per-node N`` within ``distributed.process_group``, every process samples other data,
gradients are averaged, and rank 0 writes.
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

from diffuscope.errors import InputError, Unquoted
from diffuscope.training import checkpoints, curves, distributed
from diffuscope.training.checkpoints import Progress
from diffuscope.training.muon import MuonAdamW

_CLOCK_EVERY = 10  # steps between two readings of the clock, with several processes


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """One run, of ``steps`` or of ``seconds`` of training."""

    lr: float = 1e-3
    adam_ratio: float = 0.6  # AdamW's learning rate, divided by Muon's
    weight_decay: float = 0.0
    steps: int | None = None
    seconds: float | None = None
    warmup_steps: int = 200
    hold: float = 0.35  # part of the run at the full learning rate, before the cosine
    min_lr_factor: float = 0.02  # learning rate at the end, as a part of the full one
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 50
    validate_every: float = 60.0  # seconds
    save_every: float = 60.0  # seconds
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            got = Unquoted(f"steps={self.steps} and seconds={self.seconds}")
            raise InputError("steps", got, "either steps or seconds")
        if self.warmup_steps < 1:
            raise InputError("warmup_steps", self.warmup_steps, "at least 1")


@dataclass(frozen=True)
class StepContext:
    """Randomness and progress of one step, a function of seed, step and rank: resuming changes no sample."""

    generator: torch.Generator
    """On the network's device, seeded with ``seed``."""
    seed: int
    step: int
    progress: float
    """Completed part of the run, in [0, 1)."""


class Task(Protocol):
    """A network, its data and its loss."""

    network: nn.Module
    """Everything that is trained, averaged, saved and restored."""
    adamw_prefixes: tuple[str, ...]
    """Prefixes of the names of matrices that AdamW trains instead of Muon: first and last layers."""

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a new batch, and numbers for the log (detached, on the device)."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Scores of the EMA network on held-out data."""


def lr_factor(config: LoopConfig, step: int, progress: float) -> float:
    """Factor of the learning rate: linear warm-up, constant for ``hold``, then a cosine to ``min_lr_factor``."""
    if progress <= config.hold:
        cosine = 1.0
    else:
        turn = (progress - config.hold) / (1 - config.hold)
        cosine = config.min_lr_factor + (1 - config.min_lr_factor) * 0.5 * (1 + math.cos(math.pi * min(1.0, turn)))
    return min(1.0, (step + 1) / config.warmup_steps) * cosine


def train(
    task: Task,
    config: LoopConfig,
    folder: Path,
    *,
    stop_after: float | None = None,
    on_save: Callable[[nn.Module], None] = lambda _: None,
) -> nn.Module:
    """The EMA network at the end of the run.

    Writes ``folder/log.jsonl`` (a line every ``log_every`` steps and for each validation), ``folder/curves.png`` at the
    end, and ``folder/checkpoint.safetensors``, from which a later call with the same folder resumes.

    Args:
        task: network, loss and data.
        config: the run.
        folder: created if it does not exist.
        stop_after: seconds of training after which this call saves and returns, at any point of the run.
        on_save: called with the EMA network after every checkpoint, so that an interrupted run leaves a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ema = copy.deepcopy(task.network).requires_grad_(False).eval()
    optimiser = MuonAdamW(
        task.network,
        config.lr,
        adam_ratio=config.adam_ratio,
        adamw_prefixes=task.adamw_prefixes,
        weight_decay=config.weight_decay,
    )
    checkpoint = folder / "checkpoint.safetensors"
    progress = Progress()
    if checkpoint.exists():
        progress = checkpoints.restore(checkpoint, task.network, ema, optimiser)
    run = _Run(task, config, folder, ema, optimiser, progress, on_save)
    end = math.inf if stop_after is None else progress.seconds + stop_after
    while run.fraction() < 1.0 and progress.seconds < end:
        run.step()
    run.finish()
    return ema


class _Run:
    """The state of one call of ``train``."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        folder: Path,
        ema: nn.Module,
        optimiser: MuonAdamW,
        progress: Progress,
        on_save: Callable[[nn.Module], None],
    ) -> None:
        self.task, self.config, self.folder, self.on_save = task, config, folder, on_save
        self.ema, self.optimiser, self.progress = ema, optimiser, progress
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        self.ema_parameters: list[Tensor] = [p.detach() for p in ema.parameters()]
        self.network_parameters: list[Tensor] = [p.detach() for p in task.network.parameters()]
        self.device = self.parameters[0].device
        self.generator = torch.Generator(self.device)
        self.clock = time.monotonic()
        self.compiling = True
        self.norm = torch.zeros(())
        self.validated = self.saved = progress.seconds

    def fraction(self) -> float:
        """Completed part of the run."""
        if self.config.steps is not None:
            return self.progress.step / self.config.steps
        assert self.config.seconds is not None
        return self.progress.seconds / self.config.seconds

    def step(self) -> None:
        """One update of the weights."""
        step = self.progress.step
        fraction = self.fraction()
        seed = (self.config.seed * 1_000_003 + step) * 4096 + distributed.rank()
        context = StepContext(self.generator.manual_seed(seed), seed, step, fraction)
        loss, numbers = self.task.loss(context)
        loss.backward()
        distributed.all_reduce_mean(p.grad for p in self.parameters if p.grad is not None)
        self.norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimiser.step(lr_factor(self.config, step, fraction))
        # At first a slow EMA would hold mostly noise, so the decay grows with the number of steps.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.ema_parameters, self.network_parameters, 1 - decay)
        self.progress.step += 1
        if step % self.config.log_every == 0:
            self._check_finite()
            values = {
                "loss": loss.item(),
                "grad_norm": self.norm.item(),
                "lr_factor": lr_factor(self.config, step, fraction),
            }
            self._log(values | {name: value.item() for name, value in numbers.items()})
        self._tick()

    def _tick(self) -> None:
        # All processes must stop at the same step, so rank 0's clock counts; the broadcast waits for the device.
        if distributed.world_size() == 1 or self.progress.step % _CLOCK_EVERY == 0:
            now = time.monotonic()
            # Compilation in the first step, validation and saving do not count as training time.
            passed = 0.0 if self.compiling else now - self.clock
            self.progress.seconds += distributed.broadcast_scalar(passed, self.device)
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
        """Validate and save a last time, and plot the curves."""
        self._validate()
        self._save()
        if distributed.rank() == 0:
            curves.plot(self.folder / "log.jsonl", self.folder / "curves.png")

    def _check_finite(self) -> None:
        if not math.isfinite(self.norm.item()):
            raise RuntimeError(
                f"the gradient's norm became {self.norm.item()} by step {self.progress.step - 1}; "
                f"resume from {self.folder / 'checkpoint.safetensors'} with a lower lr"
            )

    def _validate(self) -> None:
        if distributed.rank() == 0:
            self._log({f"validation.{name}": value for name, value in self.task.validate(self.ema).items()})

    def _save(self) -> None:
        self._check_finite()  # a checkpoint with NaN could not be resumed
        if distributed.rank() == 0:
            path = self.folder / "checkpoint.safetensors"
            checkpoints.save(path, self.task.network, self.ema, self.optimiser, self.progress)
            self.on_save(self.ema)

    def _log(self, numbers: dict[str, float]) -> None:
        if distributed.rank() == 0:
            line = asdict(self.progress) | numbers
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps({key: float(f"{value:.6g}") for key, value in line.items()}) + "\n")
