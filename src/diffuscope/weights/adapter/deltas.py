"""The weight deltas of LoRA, LoHa, LoKr, OFT and GLoRA, each with DoRA, as LyCORIS, kohya and PEFT have them.

Low-rank products (Hu et al. 2021, section 4.1; for convolutions LoCon, Yeh et al. 2024, section 3.2; with singular
values AdaLoRA, Zhang et al. 2023, equation 3), Hadamard products of them (Hyeon-Woo et al. 2022, section 2.2; for
convolutions section 2.3), Kronecker products (Yeh et al. 2024, section 3.2), orthogonal rotations (Qiu et al. 2023,
section 3), products with the weight itself (GLoRA, Chavan et al. 2023, equation 10), whole tensors, and DoRA (Liu et
al. 2024, equation 5).
"""

import math
from collections import UserDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["LoRA", "LoHa", "LoKr", "OFT", "GLoRA", "full"]
HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LokrSide = Literal["lokr_w1", "lokr_w2"]
ROLES: dict[str, Kind] = {
    **dict.fromkeys(("up", "down", "mid", "singular"), "LoRA"),
    **dict.fromkeys((*HADA, "hada_t1", "hada_t2"), "LoHa"),
    **dict.fromkeys((f"{side}{end}" for side in get_args(LokrSide) for end in ("", "_a", "_b")), "LoKr"),
    "lokr_t2": "LoKr",
    **dict.fromkeys(("oft_blocks", "oft_diag", "oft_R", "rescale"), "OFT"),
    **dict.fromkeys(("a1", "a2", "b1", "b2"), "GLoRA"),
    **dict.fromkeys(("diff", "set"), "full"),
}
"""Role of a tensor in its layer, for LyCORIS also its name in files -> the kind of delta."""

_TINY = 1e-8
_ROOM = 1 << 24  # numbers that a step of a product may always hold; and eight times those of the weight


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The adapter of one layer."""

    kind: Kind
    tensors: Mapping[str, Tensor]
    """By role: "up" [out,r], "down" [r,in,...], "mid" [r,r,kh,kw], "singular" [r,1] of LoRA; "diff" or "set", the whole
    delta or the whole result, of the weight's shape; or those of LyCORIS."""
    scale: float = 1.0  # alpha / rank; for OFT alpha, the limit of the rotation per output, where 0 is none
    terms: int | None = None  # of the Neumann series in place of the inverse in PEFT's OFT; None is the inverse
    magnitude: Tensor | None = None  # DoRA's m: one value per output, or per input if ``per_input``
    per_input: bool = False

    def delta(self, weight: Tensor) -> Tensor:
        """The difference from the unchanged ``weight``, float32."""
        delta = self._delta({role: t.to(weight.device, torch.float32) for role, t in self.tensors.items()}, weight)
        if self.magnitude is None:
            return delta
        before = weight.float()
        after = before + delta
        axes = [axis for axis in range(after.ndim) if axis != (1 if self.per_input else 0)]
        norm = torch.linalg.vector_norm(after, dim=axes, keepdim=True)
        return self.magnitude.to(norm).reshape(norm.shape) / norm * after - before

    def unread(self, shape: Sequence[int]) -> set[str]:
        """The roles that have no part in the delta of a weight of this shape, computed on meta; or a ValueError."""
        tensors = _Noted({role: torch.empty(tensor.shape, device="meta") for role, tensor in self.tensors.items()})
        try:
            self._delta(tensors, torch.empty(tuple(shape), device="meta"))
        except (RuntimeError, IndexError) as error:  # torch's own words for shapes that do not go together
            raise ValueError(str(error).splitlines()[0]) from error
        return tensors.keys() - tensors.read

    def _delta(self, tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
        if self.kind == "OFT":
            return _rotated(tensors, weight.float(), self.scale, self.terms) - weight.float()
        product = PRODUCTS[self.kind](tensors, weight)
        if self.kind in ("LoRA", "full") and _squeezed(product) != _squeezed(weight):
            raise ValueError(f"they make a delta of shape {list(product.shape)}")
        if product.shape[0] != weight.shape[0]:
            raise ValueError(f"they make {product.shape[0]} outputs")
        return self.scale * product.reshape(weight.shape)


class _Noted(UserDict[str, Tensor]):
    """Tensors by role, with a note of those that were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, role: str) -> Tensor:
        self.read.add(role)
        return super().__getitem__(role)


def missing(roles: Collection[str]) -> str | None:
    """A tensor that a layer with these roles lacks, under its name in files, or None."""
    kind = kind_of(roles)
    if kind == "OFT":
        return None if {"oft_blocks", "oft_diag", "oft_R"} & {*roles} else "oft_blocks"
    sides = [side for side in get_args(LokrSide) if side not in roles]
    needed = {
        "LoRA": {"down": "lora_down", "up": "lora_up"},
        "LoHa": {role: role for role in HADA},
        "LoKr": {f"{side}{end}": f"{side}{end}" for side in sides for end in ("_a", "_b")},
        "GLoRA": {role: f"{role}.weight" for role in ("a1", "a2", "b1", "b2")},
        "full": {},
    }
    return next((name for role, name in needed[kind].items() if role not in roles), None)


def rank(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The rank, or None for a LoKr of whole matrices, which has none."""
    shape = next((shapes[role] for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2") if role in shapes), ())
    return shape[0] if shape else None


def inputs(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many inputs a linear layer with these tensors has, or None where they do not show it."""
    shape = next((shapes[role] for role in ("down", "hada_w1_b", "a2", "diff", "set") if role in shapes), None)
    if shape is not None:
        return shape[1] if len(shape) > 1 else None
    sides = [shapes.get(side, shapes.get(f"{side}_b", ())) for side in get_args(LokrSide)]
    return math.prod(side[-1] for side in sides) if all(sides) else None


def kind_of(roles: Iterable[str]) -> Kind:
    """The kind of delta that has these roles."""
    return next((ROLES[role] for role in roles if role in ROLES), "LoRA")


def _low_rank(tensors: Mapping[str, Tensor], _: Tensor) -> Tensor:
    """B A, of the shape [out,in,...]; with LoCon's middle the three convolutions in turn."""
    up, down, mid, singular = tensors["up"], tensors["down"], tensors.get("mid"), tensors.get("singular")
    if any(factor.ndim < 2 for factor in (up, down)):
        raise ValueError("one is no matrix")
    if singular is not None:
        down = down * singular.reshape(-1, *[1] * (down.ndim - 1))
    up = up.reshape(up.shape[:2])
    if mid is not None:
        return _tucker(mid, up.T, down.reshape(down.shape[:2]))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """The shape, without the kernel of a 1x1 convolution."""
    return tuple(tensor.shape[:2]) if all(side == 1 for side in tensor.shape[2:]) else tuple(tensor.shape)


def _hadamard(tensors: Mapping[str, Tensor], _: Tensor) -> Tensor:
    first, second = (
        _product(tensors[f"hada_w{n}_a"], tensors[f"hada_w{n}_b"], tensors.get(f"hada_t{n}")) for n in (1, 2)
    )
    return first * second


def _kronecker(tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    def side(name: LokrSide, core: str) -> Tensor:
        if name in tensors:
            return tensors[name]
        return _product(tensors[f"{name}_a"], tensors[f"{name}_b"], tensors.get(core))

    first, second = side("lokr_w1", ""), side("lokr_w2", "lokr_t2")
    if first.numel() * second.numel() != weight.numel():
        raise ValueError(f"{list(first.shape)} times {list(second.shape)} is another number of values")
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


def _generalised(tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """GLoRA's W A + B, of A = a1 a2, [in,r] and [r,in], and B = b1 b2, [out,r] and [r,in,...]."""
    a1, a2, b1 = (tensors[role].flatten(1) for role in ("a1", "a2", "b1"))
    right = torch.einsum("or...,ri->oi...", torch.einsum("oi...,ir->or...", weight.float(), a1), a2)
    return right + (b1 @ tensors["b2"].flatten(1)).reshape(weight.shape)


def _whole(tensors: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """The delta itself, or the difference of the stored result from the weight."""
    if "diff" in tensors:
        return tensors["diff"]
    tensor = tensors["set"]
    if _squeezed(tensor) != _squeezed(weight):
        raise ValueError(f"it has shape {list(tensor.shape)}")
    return tensor.reshape(weight.shape) - weight.float()


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """The product a b, [out,in]; with a core [r,r,kh,kw] a Tucker decomposition, of a [r,out] and b [r,in]."""
    return a @ b.flatten(1) if core is None else _tucker(core, a, b)


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """[out,in,kh,kw] of a core [r,s,kh,kw], a [r,out] and b [s,in]; one side at a time: the same bits everywhere."""
    kernel = math.prod(core.shape[2:])
    if core.shape[1] * a.shape[1] * kernel > max(_ROOM, 8 * a.shape[1] * b.shape[1] * kernel):
        raise ValueError(f"a rank of {core.shape[1]} is too large")
    return torch.einsum("oskl,si->oikl", torch.einsum("rskl,ro->oskl", core, a), b)


PRODUCTS = {"LoRA": _low_rank, "LoHa": _hadamard, "LoKr": _kronecker, "GLoRA": _generalised, "full": _whole}


def _rotated(tensors: Mapping[str, Tensor], weight: Tensor, alpha: float, terms: int | None) -> Tensor:
    """The weight with its blocks of outputs rotated, or with PEFT's ``oft_R`` its blocks of inputs."""
    if "oft_R" in tensors:
        flat = weight.flatten(1)  # [out, inputs x kernel]
        turns = _cayley(-_skew(tensors["oft_R"]), terms)
        turns = turns.expand(flat.shape[1] // turns.shape[1], -1, -1) if len(turns) == 1 else turns  # one block for all
        blocks = flat.unflatten(1, turns.shape[:2])
        return torch.einsum("oki,kji->okj", blocks, turns).reshape(weight.shape)
    if "oft_diag" in tensors:  # the first versions stored the rotation itself
        turns = tensors["oft_diag"]
    else:
        if tensors["oft_blocks"].ndim > 3:
            raise ValueError("BOFT is not supported")
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
