"""The memory that a training needs beside the model, counted from shapes before its first step."""

from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from diffuscope.config import UNetConfig
from diffuscope.finetune.networks import CHECKPOINTED, Checkpointed, Factors, shared_copy, updated
from diffuscope.finetune.options import RunOptions, Targets
from diffuscope.finetune.subject import autocast
from diffuscope.lens.gradient_memory import saved_tensors
from diffuscope.lens.shapes import call_with_zeros
from diffuscope.models.unet import UNet
from diffuscope.pipeline import Pipeline
from diffuscope.types import Tap
from diffuscope.weights.store.assign import blank

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
    return _kept(pipe.config.unet, pipe.device, pipe.unet.conv_in.weight.dtype, *of)


@lru_cache(maxsize=8)
def _kept(
    config: UNetConfig,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    side: int,
    checkpointed: bool,
    rank: int,
    targets: Targets,
) -> int:
    blocks: list[int] = []
    with blank():
        unet = UNet(config)
    with FakeTensorMode(), torch.device(device), torch.enable_grad(), autocast(device):
        for module in unet.modules():
            for name, value in [*module.named_parameters(recurse=False)]:
                setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=dtype), requires_grad=False))
        network = updated(unet, Factors(unet, rank, targets, torch.Generator()) if rank else None)
        if checkpointed:  # one block at a time is computed again
            network = shared_copy(network, partial(_measured, blocks))
        with saved_tensors() as kept:
            call_with_zeros(network, rows, (side, side))
    return sum(kept.values()) + max(blocks, default=0)


def _measured(blocks: list[int], _: str, module: nn.Module) -> nn.Module | None:
    return Checkpointed(_Measured(module, blocks)) if isinstance(module, CHECKPOINTED) else None


class _Measured(nn.Module):
    """A block that adds to a list what it keeps."""

    def __init__(self, block: nn.Module, blocks: list[int]) -> None:
        super().__init__()
        self.block, self.blocks = block, blocks

    def forward(self, x: Tensor, other: Tensor, tap: Tap | None = None) -> Tensor:
        with saved_tensors() as kept:
            output: Tensor = self.block(x, other, tap)
        self.blocks.append(sum(kept.values()))
        return output
