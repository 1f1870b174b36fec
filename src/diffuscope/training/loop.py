"""The one training loop.

Started by ``torchrun --nproc-per-node N`` within ``distributed.process_group``, every process has its part of the
batch, gradients are averaged, and rank 0 writes.

A run of ``steps`` that is interrupted anywhere, killed included, and started again ends with the same bits as one that
was not. A step whose loss or gradient is not finite changes nothing, and is named in the log. SIGTERM and Ctrl-C end a
run after the step at hand, with a checkpoint; a second Ctrl-C ends it at once.
"""

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, TrainingError, Unquoted
from diffuscope.training import checkpoints, curves, distributed, run_folder
from diffuscope.training.checkpoints import Progress
from diffuscope.training.muon import MuonAdamW
from diffuscope.training.order import positions
from diffuscope.types import sent

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
    max_skipped: int = 100  # steps in a row whose loss or gradient is not finite, before the run ends
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            got = Unquoted(f"steps={self.steps} and seconds={self.seconds}")
            raise InputError("steps", got, "either steps or seconds")
        if self.warmup_steps < 1:
            raise InputError("warmup_steps", self.warmup_steps, "at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError("lr", self.lr, "a finite number above 0")
        if self.steps is not None and self.steps < 1:
            raise InputError("steps", self.steps, "at least 1")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError("seconds", self.seconds, "a finite number above 0")


def seed_of(run: int, step: int, part: int) -> int:
    """The seed of a part of a step, below 2^64, which a generator takes."""
    return ((run * 1_000_003 + step) * 4096 + part) % (1 << 64)


@dataclass(frozen=True)
class StepContext:
    """Randomness and progress of one step, a function of seed, step and rank: resuming changes no sample."""

    generator: torch.Generator
    """On the network's device, seeded with ``seed``; each process has another."""
    seed: int
    step: int
    progress: float
    """Completed part of the run, in [0, 1)."""
    run_seed: int = 0
    rank: int = 0
    processes: int = 1

    @property
    def shared(self) -> torch.Generator:
        """On the network's device, the same in all processes: for draws of the whole batch, then ``own`` of them."""
        generator = torch.Generator(self.generator.device)
        return generator.manual_seed(seed_of(self.run_seed, self.step, 4095))

    def whole(self, count: int) -> int:
        """Size of the whole batch, of which each process has ``count`` rows."""
        return count * self.processes

    def own(self, whole: Tensor) -> Tensor:
        """The rows of this process."""
        return whole[self.rank :: self.processes]

    def rows(self, count: int, size: int) -> Tensor:
        """[count] rows of ``size`` examples: the part of this process in the batch that is next in the one order."""
        whole = self.whole(count)
        return self.own(positions(self.run_seed, size, self.step * whole, whole))

    def rows_on(self, device: torch.device, count: int, size: int) -> Tensor:
        """``rows`` on a device."""
        return sent(self.rows(count, size), device)


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
    asked: Any = None,
    stop_after: float | None = None,
    on_save: Callable[[nn.Module], None] = lambda _: None,
) -> nn.Module:
    """The EMA network at the end of the run.

    Writes ``folder/log.jsonl`` (a line every ``log_every`` steps and for each validation), ``folder/curves.png`` at the
    end, and ``folder/checkpoint.safetensors``, from which a later call with the same folder resumes.

    Raises:
        TrainingError: another run has the folder, or no loss is finite any more.
        InputError: the run in the folder began with other settings.
        WeightsError: the checkpoint is damaged, or of another network.
        OutputError: nothing can be written.

    Args:
        task: network, loss and data.
        config: the run.
        folder: created if it does not exist.
        asked: the dataclass that ``config`` is a part of, with all that the run depends on; ``config`` by default.
        stop_after: seconds of training after which this call saves and returns, at any point of the run.
        on_save: called with the EMA network after every checkpoint, so that an interrupted run leaves a model.
    """
    alone = run_folder.locked(folder) if distributed.rank() == 0 else nullcontext()
    with alone, _termination() as terminated:
        run = _begin(task, config, folder, on_save, checkpoints.settings_of(config if asked is None else asked))
        end = math.inf if stop_after is None else run.progress.seconds + stop_after
        while run.fraction() < 1.0 and run.progress.seconds < end:
            run.step()
            if run.is_ended(bool(terminated)):
                run.save()
                break
        else:
            run.finish()
    if terminated:
        terminated[0]()
    return run.ema


def _begin(
    task: Task, config: LoopConfig, folder: Path, on_save: Callable[[nn.Module], None], settings: Mapping[str, Any]
) -> "_Run":
    """A run at its beginning, or at its last checkpoint."""
    ema = copy.deepcopy(task.network).requires_grad_(False).eval()
    optimiser = MuonAdamW(
        task.network,
        config.lr,
        adam_ratio=config.adam_ratio,
        adamw_prefixes=task.adamw_prefixes,
        weight_decay=config.weight_decay,
    )
    checkpoint = folder / run_folder.CHECKPOINT
    progress = Progress()
    distributed.barrier()  # the checkpoint of a run that this one follows is written
    if checkpoint.exists():
        progress = checkpoints.restore(checkpoint, task.network, ema, optimiser, settings)
        if distributed.rank() == 0:
            run_folder.rewind_log(folder, progress.step)
    return _Run(task, config, folder, ema, optimiser, progress, on_save, settings)


@contextmanager
def _termination() -> Iterator[list[Callable[[], Any]]]:
    """Within, SIGTERM and the first Ctrl-C add what they would have done to the list, and do nothing else."""
    received: list[Callable[[], Any]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def later(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        act = partial(handler if callable(handler) else _exit, number, frame)
        if received and number == signal.SIGINT:
            act()
        received.append(act)

    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    with suppress(ValueError):  # signals come to the main thread only
        for number in taken:
            signal.signal(number, later)
    try:
        yield received
    finally:
        for number in taken:
            with suppress(ValueError, TypeError):
                signal.signal(number, before[number])


def _exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(128 + number)


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
        settings: Mapping[str, Any],
    ) -> None:
        self.task, self.config, self.folder, self.on_save, self.settings = task, config, folder, on_save, settings
        self.ema, self.optimiser, self.progress = ema, optimiser, progress
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        self.ema_parameters: list[Tensor] = [p.detach() for p in ema.parameters()]
        self.network_parameters: list[Tensor] = [p.detach() for p in task.network.parameters()]
        self.device = self.parameters[0].device
        self.generator = torch.Generator(self.device)
        self.clock = time.monotonic()
        self.compiling = True
        self.outcomes: list[Tensor] = []
        self.skipped = self.skipped_in_a_row = 0
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
        context = self._context(step, fraction)
        loss, numbers = self.task.loss(context)
        loss.backward()
        grads = [p.grad for p in self.parameters if p.grad is not None]
        mean_loss = loss.detach().to(grads[0].dtype)
        distributed.all_reduce_mean([*grads, mean_loss])
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        kept = norm.isfinite() & mean_loss.isfinite()  # on the device: nothing waits for it
        self.optimiser.step(lr_factor(self.config, step, fraction), kept)
        self._average(step, kept)
        self.outcomes.append(kept)
        self.progress.step += 1
        if step % self.config.log_every == 0:
            self._check_outcomes()
            values = {
                "loss": loss.item(),
                "grad_norm": norm.item(),
                "lr_factor": lr_factor(self.config, step, fraction),
            }
            self._log(values | {name: value.item() for name, value in numbers.items()})
        self._tick()

    def _context(self, step: int, fraction: float) -> StepContext:
        seed = seed_of(self.config.seed, step, distributed.rank())
        return StepContext(
            self.generator.manual_seed(seed),
            seed,
            step,
            fraction,
            run_seed=self.config.seed,
            rank=distributed.rank(),
            processes=distributed.world_size(),
        )

    @torch.no_grad()
    def _average(self, step: int, kept: Tensor) -> None:
        # At first a slow EMA would hold mostly noise, so the decay grows with the number of steps.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        differences = torch._foreach_sub(self.network_parameters, self.ema_parameters)
        torch._foreach_mul_(differences, (1 - decay) * kept)
        torch._foreach_add_(self.ema_parameters, differences)

    def is_ended(self, terminated: bool) -> bool:
        """Whether a process was asked to end; all processes are told at the same step."""
        if distributed.world_size() > 1 and self.progress.step % _CLOCK_EVERY:
            return False
        return distributed.any_process(terminated, self.device)

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
            self.save()
            self.clock = time.monotonic()

    def finish(self) -> None:
        """Validate and save a last time, and plot the curves."""
        self._check_outcomes()
        self._validate()
        self.save()
        if distributed.rank() == 0 and (self.folder / run_folder.LOG).exists():
            curves.plot(self.folder / run_folder.LOG, self.folder / "curves.png")

    def _check_outcomes(self) -> None:
        """Name the steps since the last look that were left out, and end a run that learns nothing any more."""
        if not self.outcomes:
            return
        first = self.progress.step - len(self.outcomes)
        kept = torch.stack(self.outcomes).tolist()
        self.outcomes.clear()
        skipped = [first + i for i, ok in enumerate(kept) if not ok]
        in_a_row = kept[::-1].index(True) if any(kept) else len(kept) + self.skipped_in_a_row
        self.skipped_in_a_row, self.skipped = in_a_row, self.skipped + len(skipped)
        if skipped:
            self._log({"skipped": self.skipped}, skipped_steps=skipped)
        ended = self.fraction() >= 1.0 and in_a_row >= self.progress.step
        if in_a_row >= self.config.max_skipped or ended:
            raise TrainingError(
                f"the loss or its gradient was not finite in the last {in_a_row} steps, up to step "
                f"{self.progress.step - 1}; none of them changed the weights. Look for numbers that are not finite in "
                f"the data, or train with a lower lr than {self.config.lr:g}"
            )

    def _validate(self) -> None:
        if distributed.rank() == 0:
            self._log({f"validation.{name}": value for name, value in self.task.validate(self.ema).items()})

    def save(self) -> None:
        """Write the checkpoint."""
        self._check_outcomes()
        if distributed.rank() == 0:
            path = self.folder / run_folder.CHECKPOINT
            checkpoints.save(path, self.task.network, self.ema, self.optimiser, self.progress, self.settings)
            self.on_save(self.ema)

    def _log(self, numbers: dict[str, float], **more: list[int]) -> None:
        if distributed.rank() == 0:
            line = asdict(self.progress) | numbers
            run_folder.append_log(self.folder, {key: float(f"{value:.6g}") for key, value in line.items()} | more)
