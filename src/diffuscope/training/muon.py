"""The optimiser of every recipe: Muon for matrices, AdamW for the rest."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration of Jordan et al. 2024: singular values land between 0.7 and 1.2 in five rounds.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: U V^T of the singular value decomposition U S V^T.

    Newton-Schulz iteration (Jordan et al. 2024, "Muon"); singular values come out between about 0.7 and 1.2.

    Args:
        matrices: [G,R,C], a batch of matrices of one shape. Not modified.
        rounds: iterations.

    Returns:
        [G,R,C] in bfloat16 on a GPU and in the input's type elsewhere.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if wide else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: each weight matrix moves by the same amount in every direction.

    Updates are scaled by 0.2 sqrt(max(rows, columns)), so their root mean square is that of a typical AdamW update and
    learning rate and weight decay carry over (Liu et al. 2025, "Muon is scalable", eq. 4). Convolution kernels count
    as matrices [out, in * height * width]. Matrices of one shape are updated in one batch.

    Args:
        parameters: tensors of two or more dimensions.
        lr: learning rate on AdamW's scale.
        momentum: Nesterov momentum.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None, *, kept: Tensor | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; where ``kept`` [] is False, on the device, change nothing."""
        if closure is not None:
            raise ValueError("Muon does not support a closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    weight, momentum = _matrix(parameter), _matrix(self.state[parameter]["momentum"])
                    by_shape[weight.shape].append((weight, momentum, _matrix(parameter.grad, parameter)))
            if by_shape:
                self._move(list(by_shape.values()), group, kept)

    def _move(
        self, alike: list[list[tuple[Tensor, Tensor, Tensor]]], group: dict[str, float], kept: Tensor | None
    ) -> None:
        # A small network waits for launches, so there are few: on stacks of one shape, or on lists of one layout each.
        weights, momenta, _ = zip(*chain(*alike), strict=True)
        stacks, grads = ([torch.stack([row[k] for row in rows]) for rows in alike] for k in (1, 2))
        if kept is not None:  # towards itself, a momentum stays as it is
            grads = [torch.where(kept, grad, momentum) for grad, momentum in zip(grads, stacks, strict=True)]
        torch._foreach_lerp_(stacks, grads, 1 - group["momentum"])
        torch._foreach_copy_(momenta, [*chain(*stacks)])
        torch._foreach_lerp_(grads, stacks, group["momentum"])
        updates = [orthogonalise(grad) for grad in grads]
        decay: float | Tensor = group["lr"] * group["weight_decay"]
        if kept is not None:
            updates, decay = [torch.where(kept, update, 0.0) for update in updates], decay * kept
        updates = [u.to(g.dtype).contiguous() for u, g in zip(updates, grads, strict=True)]
        torch._foreach_mul_(updates, [max(update.shape[1:]) ** 0.5 for update in updates])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - decay)
        torch._foreach_add_(weights, [*chain(*updates)], alpha=-0.2 * group["lr"])


def _matrix(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """[R,C] by the first dimension; the rest in the order in which it lies in the memory of ``like``, or of itself."""
    if tensor.ndim == 2:
        return tensor
    ordered = tensor if (tensor if like is None else like).is_contiguous() else tensor.movedim(1, -1)
    return ordered.view(len(tensor), -1) if like is None else ordered.flatten(1)


class MuonAdamW:
    """Muon for the hidden matrices of a network, AdamW for embeddings, norms, biases, first and last layers.

    Args:
        network: what is trained.
        lr: Muon's learning rate; AdamW's is ``lr * adam_ratio``.
        adam_ratio: AdamW's learning rate, divided by ``lr``.
        adamw_prefixes: prefixes of the names of matrices that AdamW trains.
        weight_decay: of the matrices.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        *,
        adam_ratio: float = 0.6,
        adamw_prefixes: tuple[str, ...] = (),
        weight_decay: float = 0.0,
    ) -> None:
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
        self.names = {id(p): name for name, p in named}
        matrices = [
            p for name, p in named if p.ndim >= 2 and id(p) not in tables and not name.startswith(adamw_prefixes)
        ]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(Muon(matrices, lr, weight_decay=weight_decay))
        if rest:
            # Fused, it can leave out a step on the device.
            adamw = torch.optim.AdamW(rest, lr * adam_ratio, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
            for p in rest:  # from the start, so that every checkpoint has the same names
                slots = {slot: torch.zeros_like(p) for slot in ("exp_avg", "exp_avg_sq")}
                adamw.state[p] = {"step": torch.zeros((), device=p.device), **slots}
            parts.append(adamw)
        self.parts = tuple(parts)
        self.base = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def step(self, factor: float, kept: Tensor | None = None) -> None:
        """One update, with every learning rate multiplied by ``factor``; frees the gradients.

        Args:
            factor: of the learning rates.
            kept: [] bool on the device; where False, weights and buffers stay as they are, whatever the gradients.
        """
        for part, rates in zip(self.parts, self.base, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            if isinstance(part, Muon):
                part.step(kept=kept)
            else:
                part.found_inf = None if kept is None else (~kept).float()  # type: ignore[attr-defined]
                part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every buffer by parameter name and slot, for a checkpoint."""
        return {
            f"{self.names[id(parameter)]}.{slot}": value
            for part in self.parts
            for parameter, slots in part.state.items()
            for slot, value in slots.items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Load the buffers of ``state``."""
        slots: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in state.items():
            name, slot = key.rsplit(".", 1)
            slots[name][slot] = value
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    # Buffers need the memory format of their parameter.
                    part.state[parameter] = {
                        slot: value.to(parameter.device, copy=True)
                        if slot == "step"
                        else torch.empty_like(parameter).copy_(value)
                        for slot, value in slots[self.names[id(parameter)]].items()
                    }
