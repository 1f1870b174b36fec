"""Networks of a Pipeline with something to train in them, while the Pipeline's own stay as they are.

A copy has its own modules and the same tensors: it takes no memory, and a layer or vector put into it is in no other.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffuscope.finetune.options import Targets
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.nn.blocks import ResidualBlock, Transformer
from diffuscope.types import Tap

N = TypeVar("N", bound=nn.Module)

ATTENTION = ("query", "key", "value", "out")
CHECKPOINTED = (ResidualBlock, Transformer)
"""Blocks whose activations may be computed again."""

CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv")


def shared_copy(network: N, replace: Callable[[str, nn.Module], nn.Module | None] = lambda *_: None, at: str = "") -> N:
    """A copy of the modules over the same tensors, with some modules replaced.

    Args:
        network: stays as it is.
        replace: (name, module) -> what stands in its place, or None.
        at: name of the network itself, with a dot behind it.
    """
    twin = copy.copy(network)
    twin.__dict__ = network.__dict__.copy()
    twin._buffers = network._buffers.copy()
    twin._parameters = network._parameters.copy()
    twin._non_persistent_buffers_set = network._non_persistent_buffers_set.copy()
    twin._modules = {}
    for name, child in network._modules.items():
        if child is not None:
            other = replace(at + name, child)
            twin._modules[name] = shared_copy(child, replace, f"{at}{name}.") if other is None else other
        else:
            twin._modules[name] = None
    return twin


def is_target(layer: str, targets: Targets, network: nn.Module) -> bool:
    """Whether the layer of this name gets a low-rank update."""
    parent, _, own = layer.rpartition(".")
    if isinstance(network, TextEncoder):
        return parent.endswith(("self_attn", "mlp"))
    if parent.endswith("cross_attn") and own in ATTENTION:
        return True
    if targets == "cross-attention":
        return False
    if parent.endswith("self_attn") and own in ATTENTION:
        return True
    if targets == "attention":
        return False
    if parent.endswith("ff") or own in ("proj_in", "proj_out"):
        return True
    return targets == "all" and own in CONVOLUTIONS


class Factors(nn.Module):
    """The low-rank updates of some layers of a network: ``up`` [out,r,...] times ``down`` [r,in,...], float32.

    They start at zero: ``down`` is random, ``up`` is zeros (Hu et al. 2021, section 4.1).

    Args:
        network: TextEncoder or UNet.
        rank: of each; never more than the layer has inputs or outputs.
        targets: which layers of a U-Net.
        generator: on the CPU, of the random numbers.
    """

    def __init__(self, network: nn.Module, rank: int, targets: Targets, generator: torch.Generator) -> None:
        super().__init__()
        self.layers: tuple[str, ...] = tuple(
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and is_target(name, targets, network)
        )
        self.up, self.down = nn.ParameterDict(), nn.ParameterDict()
        for name in self.layers:
            weight = network.get_parameter(f"{name}.weight")
            device = weight.device
            own = min(rank, weight.shape[0], weight[0].numel())
            down = torch.rand(own, *weight.shape[1:], generator=generator).mul(2).sub(1) / weight[0].numel() ** 0.5
            self.down[_key(name)] = nn.Parameter(down.to(device))
            up = torch.zeros(weight.shape[0], own, *[1] * (weight.ndim - 2), device=device)
            self.up[_key(name)] = nn.Parameter(up)

    def pair(self, layer: str) -> tuple[Tensor, Tensor]:
        """``up`` and ``down`` of a layer."""
        return self.up[_key(layer)], self.down[_key(layer)]


def _key(layer: str) -> str:
    return layer.replace(".", "/")  # a ParameterDict allows no dots


class _Updated(nn.Module):
    """A layer plus its low-rank update."""

    def __init__(self, layer: nn.Module, up: Tensor, down: Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        self.factors = (up, down)  # a tuple: they belong to ``Factors``

    def forward(self, x: Tensor) -> Tensor:
        up, down = (factor if torch.is_autocast_enabled(x.device.type) else factor.to(x) for factor in self.factors)
        if isinstance(self.layer, nn.Conv2d):
            assert not isinstance(self.layer.padding, str)
            inner = F.conv2d(x, down, None, self.layer.stride, self.layer.padding)
            return self.layer(x) + self.scale * F.conv2d(inner, up)
        return self.layer(x) + self.scale * F.linear(F.linear(x, down), up)


class Checkpointed(nn.Module):
    """A block whose activations are computed again in the backward pass (Chen et al. 2016)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, other: Tensor, tap: Tap | None = None) -> Tensor:
        """What the block returns."""
        return checkpoint(self.block, x, other, tap, use_reentrant=False, preserve_rng_state=False)


def updated(network: N, factors: Factors | None, scale: float = 1.0, *, checkpointed: bool = False) -> N:
    """A copy of ``network`` with low-rank updates, whose blocks may be checkpointed."""
    layers = set() if factors is None else {*factors.layers}

    def with_update(name: str, module: nn.Module) -> nn.Module | None:
        return _Updated(module, *factors.pair(name), scale) if factors is not None and name in layers else None

    def with_checkpoint(_: str, module: nn.Module) -> nn.Module | None:
        return Checkpointed(module) if isinstance(module, CHECKPOINTED) else None

    twin = shared_copy(network, with_update)
    return shared_copy(twin, with_checkpoint) if checkpointed and isinstance(network, UNet) else twin
