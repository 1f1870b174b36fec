"""One training in its folder: nothing overwritten unasked, resumed where it is the same, stopped where it explodes.

The folder of ``fox.safetensors`` is ``fox.run``. It holds the log, the curves, what was asked (``run.json``), and the
checkpoint while the training is not finished.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffuscope.errors import InputError, OutOfMemoryError, OutputError, TrainingError, Unquoted
from diffuscope.finetune.options import Reporting, RunOptions
from diffuscope.output import check_output
from diffuscope.perf import memory
from diffuscope.pipeline import Pipeline
from diffuscope.training.loop import LoopConfig, StepContext, Task, train
from diffuscope.training.run_folder import CHECKPOINT, LOG, locked
from diffuscope.weights.store import documents

ASKED = "run.json"
LOG_EVERY = 10
ROUNDING = 1e-6
"""Of the error: what changes by less has not been learned."""

EXPLODED = 4.0
"""Times the error of the model before, at which a training is stopped."""


def check_file(out: str | PathLike[str], *, overwrite: bool) -> Path:
    """The file that will be written.

    Raises:
        InputError: its name does not end in .safetensors.
        OutputError: it is there, or cannot be written.
    """
    path = check_output(out, "out", suffix=".safetensors")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; give another name, or --overwrite (overwrite=True) to replace it")
    return path


def check_lora_file(out: str | PathLike[str], *, overwrite: bool) -> Path:
    """The same of a LoRA, which prompts name by its file.

    Raises:
        InputError: the name cannot stand in a prompt's tag, too.
    """
    path = check_file(out, overwrite=overwrite)
    if path.stem != path.stem.strip() or any(sign in path.stem for sign in "<>:"):
        raise InputError("out", path.name, "a name without <, > and :, since prompts write <lora:NAME:WEIGHT>")
    return path


def identity(pipe: Pipeline, options: Any, *data: Tensor | str) -> dict[str, Any]:
    """What tells one training from another: the model, the options, and the data by their hash.

    Raises:
        InputError: the model's networks wait in the host's memory.
    """
    if pipe.engine.offload.device is not None:
        raise InputError("pipe", Unquoted("a model with offload"), "one whose networks stay on the device")
    loras = [(each.name, each.weight, each.lora.sha256) for each in pipe.adapters.active]
    asked = {name: value for name, value in options.to_dict().items() if name not in ("overwrite",)}
    return {"model": pipe.weights, "loras": loras, "options": asked, "data": digest(*data)}


def digest(*data: Tensor | str) -> str:
    """SHA-256 of texts and tensors, in hex."""
    whole = hashlib.sha256()
    for each in data:
        whole.update(each.encode() if isinstance(each, str) else each.detach().float().cpu().numpy().tobytes())
    return whole.hexdigest()


class Watched:
    """A task whose progress is shown, and which is stopped where its error explodes.

    Args:
        task: what is trained.
        before: its error before the first step, from ``task.validate``.
        total: number of steps.
        reporting: who is told.
        lr: named where the error explodes.
    """

    def __init__(self, task: Task, before: float, total: int, reporting: Reporting, lr: float) -> None:
        self.task, self.before, self.total, self.reporting, self.lr = task, before, total, reporting, lr
        self.network, self.adamw_prefixes = task.network, task.adamw_prefixes
        self.recent: list[Tensor] = []
        self.shown = self.after = before

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the task."""
        loss, numbers = self.task.loss(context)
        self.recent.append(numbers["error"])  # of the pictures; the loss may have that of a prior too
        if len(self.recent) == LOG_EVERY:
            mean = torch.stack(self.recent).mean().item()
            self.recent.clear()
            self.shown = mean
            if mean > EXPLODED * self.before:  # what is not finite is left out by the loop, and counted
                raise TrainingError(_exploded(f"step {context.step}", mean, self.before, self.lr))
        self.reporting.on_step(context.step + 1, self.total, self.shown)
        return loss, numbers

    def validate(self, network: nn.Module) -> dict[str, float]:
        """That of the task; the loop calls it at the end."""
        scores = self.task.validate(network)
        self.after = scores["error"]
        return scores


def _exploded(when: str, error: float, before: float, lr: float) -> str:
    return f"the error rose from {before:.4g} to {error:.4g} at {when}; train with a lower lr than {lr:g}"


def _unlearned(after: float, before: float, lr: float) -> str:
    if abs(after - before) <= ROUNDING * before:
        return (
            f"nothing was learned: the error stayed {before:.4g}; train for more steps, or with a higher lr than {lr:g}"
        )
    return _exploded("the end", after, before, lr)


def fit(
    task: Task,
    steps: int,
    lr: float,
    folder: Path,
    options: RunOptions,
    reporting: Reporting,
    asked: Mapping[str, Any],
) -> tuple[nn.Module, float, float]:
    """Train in a folder; the averaged network, and the error on fixed noise before and after.

    Raises:
        TrainingError: another run has the folder, or the error is not lower than before.
        OutputError: another training is in the folder, and may not be overwritten.
    """
    config = LoopConfig(
        lr=lr,
        adam_ratio=1.0,
        steps=steps,
        seed=options.seed,
        warmup_steps=min(20, steps),
        hold=0.6,
        min_lr_factor=0.05,
        max_grad_norm=options.max_grad_norm,
        ema_decay=0.97,
        log_every=LOG_EVERY,
        validate_every=float("inf"),
        max_skipped=50,
    )
    with locked(folder):
        _begin(folder, dict(asked), options.overwrite, reporting.tell)
    before = task.validate(task.network)["error"]
    watched = Watched(task, before, steps, reporting, lr)
    network = train(watched, config, folder)
    if not watched.after < (1 - ROUNDING) * before:
        raise TrainingError(_unlearned(watched.after, before, lr))
    return network, before, watched.after


def finish(folder: Path) -> None:
    """Remove the checkpoint of a training whose result is written."""
    for path in folder.rglob(CHECKPOINT):
        path.unlink()


def _begin(folder: Path, asked: dict[str, Any], overwrite: bool, tell: Callable[[str], None]) -> None:
    """Refuse the folder of another training, or clear it; a log without a checkpoint is of no use."""
    path = folder / ASKED
    text = json.dumps(asked, indent=1, sort_keys=True) + "\n"
    if path.exists() and path.read_bytes() != text.encode():
        if not overwrite:
            raise OutputError(
                f"{folder} is of a training with other options, pictures or another model; give another name for the "
                "file, or --overwrite (overwrite=True) to begin anew"
            )
        (folder / CHECKPOINT).unlink(missing_ok=True)
    documents.write_text(path, text)
    if (folder / CHECKPOINT).exists():
        tell(f"resuming the training in {folder}")
    else:
        (folder / LOG).unlink(missing_ok=True)


def check_memory(parts: Mapping[str, int], device: torch.device, tell: Callable[[str], None]) -> None:
    """Say what a training needs, and refuse one that cannot fit.

    Raises:
        OutOfMemoryError: it needs more than is left.
    """
    total = sum(parts.values())
    listed = ", ".join(f"{size / 2**20:,.0f} {name}" for name, size in parts.items())
    left = memory.available(device)
    tell(f"needs about {total / 2**20:,.0f} MiB on {device.type}, in addition to the model: {listed}")
    if left is not None and total > left:
        hint = f"It needs about {total >> 20:,} MiB and {left >> 20:,} are left. Use gradient checkpointing, a smaller "
        raise OutOfMemoryError("planning the training", device.type, hint + "batch or size, or dtype bfloat16")
