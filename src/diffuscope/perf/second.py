"""A second device for one half of guidance: the rows with the prompt, while the first device computes those without."""

import copy
import weakref
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from diffuscope.models.unet import UNet
from diffuscope.perf.unet import FastUNet

Predict = Callable[[Tensor, Tensor], Tensor]


class Second:
    """A copy of the U-Net on another device, made again after each change of the weights.

    Attributes:
        device: where it is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copied: tuple[weakref.ref[FastUNet], UNet] | None = None

    def copy(self, twin: FastUNet) -> UNet:
        """The copy of a twin's U-Net; with other weights it has another twin."""
        if self._copied is not None and self._copied[0]() is twin:
            return self._copied[1]
        self._copied = None  # before there are two
        memo = {id(each): self._moved(each) for each in twin.unet.parameters()}  # no second copy where the network is
        self._copied = weakref.ref(twin), copy.deepcopy(twin.unet, memo)
        return self._copied[1]

    def _moved(self, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.detach().to(self.device, copy=True), parameter.requires_grad)

    def there(self, tensor: Tensor) -> Tensor:
        """The tensor on this device; the host does not wait."""
        return tensor.to(self.device, non_blocking=True)


def halved(
    first: Callable[[Tensor, Mapping[str, Tensor] | None], Predict],
    other: Callable[[Tensor, Mapping[str, Tensor] | None], Predict],
    second: Second,
    context: Tensor,
    extra: Mapping[str, Tensor] | None,
) -> Predict:
    """A U-Net call of 2N rows as two of N, on two devices at the same time.

    Args:
        first: makes the prediction of the first N rows, from their text and ``extra``.
        other: likewise of the others, from tensors on the second device.
        second: the second device.
        context: [2N,T,D].
        extra: [2N,...] each, or None.
    """
    half = len(context) // 2
    here = first(context[:half], extra and {name: value[:half] for name, value in extra.items()})
    rest = extra and {name: second.there(value[half:]) for name, value in extra.items()}
    away = other(second.there(context[half:]), rest)

    def predict(x: Tensor, time: Tensor) -> Tensor:
        theirs = away(second.there(x[half:]), time)  # begun first, so that both compute at the same time
        return torch.cat([here(x[:half], time), theirs.to(x.device)])

    return predict
