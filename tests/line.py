"""A training that is over in a moment."""

import json

import torch
from torch import nn

from diffuscope.training.loop import LoopConfig

CONFIG = LoopConfig(lr=0.2, steps=60, warmup_steps=5, log_every=10, ema_decay=0.9)


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


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
