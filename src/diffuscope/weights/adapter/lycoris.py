"""Changes of a layer that are no low-rank product: LoHa, LoKr and OFT, in the files of LyCORIS, kohya and PEFT.

Hadamard products of low-rank matrices (Hyeon-Woo et al. 2022, section 2.2; for convolutions section 2.3), Kronecker
products (Yeh et al. 2024, section 3.2), and orthogonal rotations (Qiu et al. 2023, section 3).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["LoHa", "LoKr", "OFT"]
HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LokrSide = Literal["lokr_w1", "lokr_w2"]
ROLES: dict[str, Kind] = {
    **dict.fromkeys((*HADA, "hada_t1", "hada_t2"), "LoHa"),
    **dict.fromkeys((f"{side}{end}" for side in get_args(LokrSide) for end in ("", "_a", "_b")), "LoKr"),
    "lokr_t2": "LoKr",
    **dict.fromkeys(("oft_blocks", "oft_diag", "oft_R", "rescale"), "OFT"),
}
"""What a tensor is called in files -> the kind of change that it is a part of."""

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The change of one layer."""

    kind: Kind
    tensors: Mapping[str, Tensor]
    """By the names in ``ROLES``."""
    scale: float = 1.0
    """alpha / rank; for OFT, alpha: how far all blocks may turn, for each output. 0 is as far as they like."""
    terms: int | None = None
    """Of the series by which PEFT's OFT replaces the inverse in Cayley's formula; None is the inverse."""
    magnitude: Tensor | None = None
    """DoRA's m, of as many values as the layer has outputs, or inputs where ``per_input``."""
    per_input: bool = False

    def delta(self, weight: Tensor) -> Tensor:
        """What the layer's weight changes by, float32, of the shape and on the device of ``weight``.

        Args:
            weight: the unchanged weight, which OFT turns and of which DoRA takes the direction. Not modified.

        Raises:
            ValueError: the tensors do not fit the weight, or one another.
        """
        tensors = {role: tensor.to(weight.device, torch.float32) for role, tensor in self.tensors.items()}
        try:
            if self.kind == "OFT":
                change = _turned(tensors, weight.float(), self.scale, self.terms) - weight.float()
            else:
                made = _hadamard(tensors) if self.kind == "LoHa" else _kronecker(tensors)
                if made.shape[0] != weight.shape[0]:
                    raise ValueError(f"they make {made.shape[0]} outputs")
                change = self.scale * made.reshape(weight.shape)
        except (RuntimeError, IndexError) as error:  # torch's own words for shapes that do not go together
            raise ValueError(str(error).splitlines()[0]) from error
        return decomposed(weight, change, self.magnitude, self.per_input)


def decomposed(weight: Tensor, change: Tensor, magnitude: Tensor | None, per_input: bool) -> Tensor:
    """The ``change``, or with a magnitude what takes ``weight`` there in DoRA: Liu et al. 2024, equation 5.

    Args:
        weight: the unchanged weight. Not modified.
        change: float32, of its shape.
        magnitude: m, one value an output, or an input where ``per_input``.
        per_input: whether norms run over the inputs' own axis.
    """
    if magnitude is None:
        return change
    before = weight.float()
    after = before + change
    axes = [axis for axis in range(after.ndim) if axis != (1 if per_input else 0)]
    norm = torch.linalg.vector_norm(after, dim=axes, keepdim=True)
    return magnitude.to(norm).reshape(norm.shape) / norm * after - before


def missing(roles: Mapping[str, object]) -> str | None:
    """What a layer with these roles lacks, or None where it is whole."""
    kind = next(ROLES[role] for role in roles if role in ROLES)
    if kind == "LoHa":
        return next((role for role in HADA if role not in roles), None)
    if kind == "OFT":
        return None if {"oft_blocks", "oft_diag", "oft_R"} & roles.keys() else "oft_blocks"
    sides = [side for side in get_args(LokrSide) if side not in roles]
    return next((f"{side}{end}" for side in sides for end in ("_a", "_b") if f"{side}{end}" not in roles), None)


def rank(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """By what alpha is divided, or None where the shapes do not say it, as those of a LoKr of whole matrices."""
    found = next((shapes[role] for role in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if role in shapes), ())
    return found[0] if found else None


def inputs(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many inputs a linear layer with these tensors has, or None where they do not say it."""
    if "hada_w1_b" in shapes:
        return shapes["hada_w1_b"][-1] if shapes["hada_w1_b"] else None
    sides = [shapes.get(side, shapes.get(f"{side}_b", ())) for side in get_args(LokrSide)]
    return math.prod(side[-1] for side in sides) if all(sides) else None


def _hadamard(tensors: Mapping[str, Tensor]) -> Tensor:
    first, second = (
        _product(tensors[f"hada_w{n}_a"], tensors[f"hada_w{n}_b"], tensors.get(f"hada_t{n}")) for n in (1, 2)
    )
    return first * second


def _kronecker(tensors: Mapping[str, Tensor]) -> Tensor:
    def side(name: LokrSide, core: Tensor | None) -> Tensor:
        return tensors[name] if name in tensors else _product(tensors[f"{name}_a"], tensors[f"{name}_b"], core)

    first, second = side("lokr_w1", None), side("lokr_w2", tensors.get("lokr_t2"))
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """The product a b, [out,in]; with a core [r,r,kh,kw] Tucker's [out,in,kh,kw] of a [r,out] and b [r,in]."""
    return a @ b.flatten(1) if core is None else torch.einsum("rskl,ro,si->oikl", core, a, b)


def _turned(tensors: Mapping[str, Tensor], weight: Tensor, alpha: float, terms: int | None) -> Tensor:
    """The weight with its blocks of outputs turned, or with PEFT's ``oft_R`` its blocks of inputs."""
    if "oft_R" in tensors:
        flat = weight.flatten(1)  # [out, inputs x kernel]
        turns = _cayley(-_skew(tensors["oft_R"]), terms)
        turns = turns.expand(flat.shape[1] // turns.shape[1], -1, -1) if len(turns) == 1 else turns  # one for all
        blocks = flat.unflatten(1, turns.shape[:2])
        return torch.einsum("oki,kji->okj", blocks, turns).reshape(weight.shape)
    if "oft_diag" in tensors:  # the first versions keep the rotation itself
        turns = tensors["oft_diag"]
    else:
        skew = tensors["oft_blocks"] - tensors["oft_blocks"].transpose(1, 2)
        if alpha > 0 and skew.device.type != "meta":
            skew = skew * (alpha * weight.shape[0] / (skew.norm() + _TINY)).clamp(max=1)
        turns = _cayley(skew, None)
    blocks = weight.unflatten(0, turns.shape[:2])
    turned = torch.einsum("kij,ki...->kj...", turns, blocks).reshape(weight.shape)
    return tensors["rescale"].reshape(-1, *[1] * (weight.ndim - 1)) * turned if "rescale" in tensors else turned


def _skew(upper: Tensor) -> Tensor:
    """[k,b,b] skew-symmetric matrices of the values [k, b(b-1)/2] above their diagonals."""
    size = (1 + math.isqrt(1 + 8 * upper.shape[1])) // 2
    if 2 * upper.shape[1] != size * (size - 1):
        raise ValueError(f"{upper.shape[1]} values do not fill the half of a square")
    rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
    matrix = upper.new_zeros(len(upper), size, size)
    matrix[:, rows, columns] = upper
    return matrix - matrix.transpose(1, 2)


def _cayley(skew: Tensor, terms: int | None) -> Tensor:
    """(1 + Q) (1 - Q)^-1, a rotation, for each of [k,b,b]; or the series 1 + 2Q + 2Q^2 + ... of -Q, as PEFT sums it."""
    one = torch.eye(skew.shape[1], device=skew.device)
    if terms is None:
        return torch.linalg.solve(one - skew, one + skew, left=False)
    powers = [-skew]
    for _ in range(terms - 2):
        powers.append(powers[-1] @ -skew)
    return one + 2 * sum(powers[:-1], torch.zeros_like(skew)) + powers[-1]
