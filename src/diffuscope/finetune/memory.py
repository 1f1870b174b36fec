"""The memory that a training needs beside the model, counted from shapes before its first step."""

from functools import lru_cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffuscope.config import UNetConfig
from diffuscope.finetune.networks import Factors, updated
from diffuscope.finetune.options import RunOptions, Targets
from diffuscope.lens.gradient_memory import saved_tensors
from diffuscope.lens.shapes import call_with_zeros
from diffuscope.models.unet import UNet
from diffuscope.pipeline import Pipeline

COPIES = 5
"""Of what is trained: weights, gradients, two buffers of AdamW, and the average; all float32."""


def trained(network: nn.Module) -> dict[str, int]:
    """Bytes of what is trained."""
    return {"of what is trained": COPIES * 4 * sum(parameter.numel() for parameter in network.parameters())}


def activations(pipe: Pipeline, size: int, options: RunOptions, rank: int = 0, targets: Targets = "all") -> int:
    """Bytes that the U-Net keeps for the backward pass of a batch, without the weights.

    Args:
        pipe: the model.
        size: side of the pictures in pixels.
        options: of the batch and of checkpoints.
        rank: of low-rank updates; 0 is none.
        targets: layers that have them.
    """
    side = size // pipe.config.vae.factor
    of = (options.batch_size, side, options.gradient_checkpointing, rank, targets)
    kept = _kept(pipe.config.unet, str(pipe.device), *of)
    return kept // (2 if pipe.device.type == "cuda" else 1)  # counted in float32; bfloat16 on a GPU


@lru_cache(maxsize=8)
def _kept(
    config: UNetConfig, device: str, rows: int, side: int, checkpointed: bool, rank: int, targets: Targets
) -> int:
    with FakeTensorMode(), torch.device(device), torch.enable_grad(), saved_tensors() as kept:
        unet = UNet(config).requires_grad_(False)
        factors = Factors(unet, rank, targets, torch.Generator()) if rank else None
        call_with_zeros(updated(unet, factors, checkpointed=checkpointed), rows, (side, side))
    return sum(kept.values())
