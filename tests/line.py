"""A training that is over in a moment."""

import json

import torch
from torch import nn

from diffuscope.training.loop import LoopConfig

CONFIG = LoopConfig(lr=0.2, steps=60, warmup_steps=5, log_every=10, ema_decay=0.9)
EVERY_STEP = LoopConfig(lr=0.2, steps=20, warmup_steps=5, log_every=10, ema_decay=0.9, save_every=0.0)
"""Short, with a checkpoint after each step."""


class Line:
    """A real task, small: learn y = A x from samples."""

    adamw_prefixes = ()

    def __init__(self):
        torch.manual_seed(0)
        self.network = nn.Linear(4, 3)
        self.truth = torch.randn(3, 4, generator=torch.Generator().manual_seed(9))

    def loss(self, context):
        x = torch.randn(32, 4, generator=context.generator)
        error = (self.network(x) - x @ self.truth.T).square().mean()
        return error, {"error": error.detach()}

    def validate(self, network):
        return {"distance": (network.weight - self.truth).norm().item()}


class Table(Line):
    """The same from a table of 50 examples, in the order of the run, with noise that belongs to the example."""

    def __init__(self, count=8):
        super().__init__()
        self.count, self.seen = count, []
        self.examples = torch.randn(50, 4, generator=torch.Generator().manual_seed(8))

    def loss(self, context):
        rows = context.rows(self.count, len(self.examples))
        noise = context.own(torch.randn(context.whole(self.count), 4, generator=context.shared))
        self.seen.append(rows)
        x = self.examples[rows] + 0.1 * noise
        error = (self.network(x) - x @ self.truth.T).square().mean()
        return error, {"error": error.detach()}


class InterruptionError(Exception):
    """Stands for whatever ends a process."""


class Interruptible(Table):
    """Does one step, and is interrupted in the next."""

    def loss(self, context):
        if self.seen:
            raise InterruptionError
        return super().loss(context)


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
