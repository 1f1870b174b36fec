"""Weights that are used together, side by side in memory; and whether any has changed."""

import operator
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def modules(parts: object, kind: type[M]) -> list[M]:
    """The modules of a ModuleList, all of one kind."""
    assert isinstance(parts, nn.ModuleList)
    found = [each for each in parts if isinstance(each, kind)]
    assert len(found) == len(parts)
    return found


def lay_channels_last(network: nn.Module) -> None:
    """Put the weights of all convolutions into channels-last memory, but on a CPU.

    There the twin has packed ones of its own, and the network itself would sum in another order afterwards.
    """
    for parameter in network.parameters():
        if parameter.ndim == 4 and parameter.device.type != "cpu":
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class Joined:
    """Linear layers of one input as one product. Their weights become views into one tensor: none is stored twice.

    Attributes:
        weight: [sum of the widths, inputs].
        bias: of the same rows; None if the layers have none.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.widths = [layer.out_features for layer in layers]
        with torch.no_grad():
            self.weight = torch.cat([layer.weight.data for layer in layers])
            biases = [layer.bias.data for layer in layers if layer.bias is not None]
            self.bias = torch.cat(biases) if biases else None
        for layer, weight in zip(layers, self.weight.split(self.widths), strict=True):
            layer.weight.data = weight
        if self.bias is not None:
            for layer, bias in zip(layers, self.bias.split(self.widths), strict=True):
                layer.bias.data = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[...,sum of the widths] from [...,inputs]."""
        return F.linear(x, self.weight, self.bias)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The layers' outputs one by one. Views."""
        return self(x).split(self.widths, dim=-1)


class Watch:
    """Notices changes of a network's weights; in place they are noticed too, except through ``.data``."""

    def __init__(self, network: nn.Module) -> None:
        """Take the weights as they are now for unchanged."""
        places = [
            (owner, name, part)
            for module in network.modules()
            for owner in (module._modules, module._parameters)
            for name, part in owner.items()
        ]
        self._owners, self._names, self._parts = zip(*places, strict=True)
        self._parameters = list(network.parameters())
        self._state = self._now()

    def is_same(self) -> bool:
        """Whether the network has the modules and parameters that it had."""
        return all(map(operator.is_, map(dict.get, self._owners, self._names), self._parts))

    def is_unchanged(self) -> bool:
        """Whether these parameters have the same values in the same places."""
        return self._now() == self._state

    def _now(self) -> list[int]:
        return [number for each in self._parameters for number in (each.data_ptr(), each._version)]
