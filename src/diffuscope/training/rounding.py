"""Train a student as its file will store it: the straight-through estimator (Bengio et al. 2013).

Forward and backward see the rounded weights, and the gradient moves the exact ones, so the network learns weights that
lose nothing when they are rounded.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffuscope.weights.store import difference


class Rounding:
    """Rounds a network's weights from a call of ``round`` to the end of the next backward pass.

    Args:
        network: what is trained; a forward uses each weight once.
        base: the tensors that the stored difference is taken from.
        compiled: whether the arithmetic of rounding is compiled.
    """

    def __init__(self, network: nn.Module, base: Mapping[str, Tensor], *, compiled: bool = False) -> None:
        self._base = base
        self._rounding = torch.compile(_rounded, dynamic=True) if compiled else _rounded
        self._weights = _coarse(network, base)
        self._exact = {name: torch.empty_like(weight) for name, weight in self._weights.items()}
        self._are_rounded: set[str] = set()
        for name, weight in self._weights.items():
            weight.register_post_accumulate_grad_hook(lambda _, name=name: self._restore(name))

    @torch.no_grad()
    def round(self) -> None:
        """Round now; each weight becomes exact again as soon as its gradient is there."""
        self._are_rounded.update(self._weights)
        for name, weight in self._weights.items():
            self._exact[name].copy_(weight)
            # Plain matrices, whatever the layer: compiled once.
            weight.copy_(self._rounding(self._exact[name].flatten(1), self._base[name].flatten(1)).view_as(weight))

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        if name in self._are_rounded:
            self._are_rounded.remove(name)
            self._weights[name].copy_(self._exact[name])


@torch.no_grad()
def round_weights(network: nn.Module, base: Mapping[str, Tensor]) -> None:
    """Give a network the weights that it has after it was stored."""
    for name, weight in _coarse(network, base).items():
        weight.copy_(_rounded(weight, base[name]))


def _coarse(network: nn.Module, base: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {n: weight for n, weight in network.named_parameters() if n in base and difference.is_coarse(weight)}


def _rounded(weight: Tensor, base: Tensor) -> Tensor:
    return base + difference.rounded(weight - base)
