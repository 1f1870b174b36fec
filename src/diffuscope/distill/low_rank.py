"""A student as its difference from the teacher: low-rank factors of the big matrices (Hu et al. 2021), the rest whole.

Convolution kernels count as matrices [out, in * height * width].
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

UP, DOWN = "::up", "::down"  # no module's name has colons


def factorise(difference: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The best approximation of that rank, in the Frobenius norm, by a truncated singular value decomposition.

    Args:
        difference: student less teacher, by name.
        rank: of every matrix. What needs no more numbers whole than as two factors stays whole.

    Returns:
        ``NAME::up`` [out,rank] and ``NAME::down`` [rank,in], whose product is the matrix, or ``NAME`` as it is. The
        factors share the singular values evenly.
    """
    factors: dict[str, Tensor] = {}
    for name, value in difference.items():
        if not _is_factored(value.shape, rank):
            factors[name] = value
            continue
        u, s, v = torch.linalg.svd(value.float().flatten(1), full_matrices=False)
        root = s[:rank].sqrt()
        factors[name + UP] = (u[:, :rank] * root).contiguous()
        factors[name + DOWN] = (root[:, None] * v[:rank]).contiguous()
    return factors


def restore(base: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's tensors: ``base`` plus the difference that the factors hold."""
    return {name: value + _difference(factors, name, value) for name, value in base.items()}


def attach(network: nn.Module, base: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
    """Make ``network`` the student, in place, and let only the factors and the whole differences learn."""
    modules = dict(network.named_modules())
    network.requires_grad_(False)
    tensors = dict(network.named_parameters())
    for name, parameter in tensors.items():
        if name + UP not in factors:
            parameter.data.copy_(base[name] + factors[name].to(base[name]))
            parameter.requires_grad_(True)
    for name in [name for name in tensors if name + UP in factors]:
        tensors[name].data.copy_(base[name])
        owner, _, kind = name.rpartition(".")
        product = _Product(factors[name + UP].to(tensors[name]), factors[name + DOWN].to(tensors[name]))
        parametrize.register_parametrization(modules[owner], kind, product)


def read_factors(network: nn.Module, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``attach`` was given, as training has left it."""
    state = network.state_dict()
    factors: dict[str, Tensor] = {}
    for name, value in base.items():
        owner, _, kind = name.rpartition(".")
        place = f"{owner}.parametrizations.{kind}.0"
        if f"{place}.up" in state:
            factors[name + UP], factors[name + DOWN] = state[f"{place}.up"], state[f"{place}.down"]
        else:
            factors[name] = state[name] - value.to(state[name])
    return factors


def _is_factored(shape: torch.Size, rank: int) -> bool:
    rows, columns = (shape[0], shape.numel() // shape[0]) if len(shape) > 1 else (1, 1)
    return rank * (rows + columns) < rows * columns


def _difference(factors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    if name + UP in factors:
        return (factors[name + UP].to(like) @ factors[name + DOWN].to(like)).view(like.shape)
    return factors[name].to(like)


class _Product(nn.Module):
    """A weight plus the product of two factors."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up.clone()), nn.Parameter(down.clone())

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(weight.shape)
