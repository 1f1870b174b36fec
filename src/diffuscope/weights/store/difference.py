"""A fine-tuned network as its difference from another: two bits a number, so a sixteenth of float32.

A value of a large matrix is one of -1.5, -0.5, 0.5, 1.5 steps. The step of a row begins as that of the best uniform
quantiser of a Gaussian with four levels, 0.9957 standard deviations (Max 1960, table II); a few rounds of least squares
fit it to the row, and find the step of a row that was rounded before. Tensors that the base lacks are
stored as ``packing`` does, differences of small ones as float16; the names of those that are as in the base are listed.
"""

import functools
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.errors import WeightMismatchError
from diffuscope.weights.store import files, headers, packing

FORMAT = "diffuscope difference 1"
CODES, STEP = "::codes", "::step"  # no module's name has colons
UNCHANGED = "unchanged"
_STEP = 0.9957
_ROUNDS = 3


def write(path: str | Path, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """``tensors`` less ``base`` as a safetensors file."""
    files.write(path, *pack(tensors, base))


def pack(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The difference packed, and the metadata that ``restore`` needs."""
    coarse: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    unchanged = [name for name in tensors if name in base and torch.equal(tensors[name].float(), base[name].float())]
    for name, value in tensors.items():
        if name in unchanged:
            continue
        difference = value.float() - base[name].float() if name in base else value
        if name in base and is_coarse(value):
            codes, step = _coded(difference)
            coarse[name + CODES], coarse[name + STEP] = _squeezed(codes.to(torch.uint8).flatten()), step
        else:
            rest[name] = difference
    packed, metadata = packing.pack(rest)
    return packed | coarse, metadata | {"format": FORMAT, UNCHANGED: json.dumps(unchanged)}


def is_coarse(value: Tensor) -> bool:
    """Whether the difference of a tensor of this shape is stored with two bits a number."""
    return value.ndim > 1 and value.numel() >= packing.SMALL


def rounded(difference: Tensor) -> Tensor:
    """The difference, float32, as ``restore`` gives it back where ``is_coarse``."""
    codes, step = _coded(difference)
    return _decoded(codes - 1.5, step)


def is_difference(header: headers.Header) -> bool:
    """Whether the file with this header was written by ``write``."""
    return header.metadata.get("format") == FORMAT


def restore(pieces: Mapping[str, Tensor], metadata: Mapping[str, str], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, float32, of a packed difference and of the base that it was taken from."""
    coarse = {name: piece for name, piece in pieces.items() if name.endswith((CODES, STEP))}
    rest = {name: piece for name, piece in pieces.items() if name not in coarse}
    tensors = packing.unpack(rest, {**metadata, "format": packing.FORMAT})
    unchanged = frozenset(json.loads(metadata.get(UNCHANGED, "[]")))
    for name, value in base.items():
        if name in unchanged:
            tensors[name] = value.float()
        elif name + CODES in coarse:
            tensors[name] = _unpacked(coarse, name, value.shape).add_(value)
        elif name in tensors and tensors[name].shape == value.shape:
            tensors[name] = value.float() + tensors[name]
        else:
            raise WeightMismatchError(f"the difference has no {name!r} of shape {list(value.shape)}; save it again")
    if coarse:
        raise WeightMismatchError(f"the difference is of another base, which has {sorted(coarse)[0]!r}")
    return tensors


def _unpacked(coarse: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    """The difference of one tensor; its pieces are taken out of ``coarse``."""
    codes, step = coarse.pop(name + CODES), coarse.pop(name + STEP, torch.empty(0))
    stored = (codes.dtype, codes.shape, step.shape, step.is_floating_point())
    if stored != (torch.uint8, (-(-prod(shape) // 4),), shape[:1], True):
        raise WeightMismatchError(f"the difference of {name!r} does not fit its shape {list(shape)}; save it again")
    levels = _four_levels().to(codes.device).index_select(0, codes.int()).flatten()[: prod(shape)].view(shape)
    return _decoded(levels, step)


@functools.cache
def _four_levels() -> Tensor:
    """[256,4] the levels, in steps, of the four codes in each byte."""
    codes = torch.arange(256)[:, None] >> torch.tensor([0, 2, 4, 6]) & 3
    return codes - 1.5


def _coded(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Codes 0 to 3 of all values, and the step of each row, float16."""
    step = difference.flatten(1).std(1) * _STEP
    for _ in range(_ROUNDS):
        levels = _codes(difference, step).flatten(1) - 1.5
        step = (levels * difference.flatten(1)).sum(1) / levels.square().sum(1)
    step = step.half()
    return _codes(difference, step.float()), step


def _codes(difference: Tensor, step: Tensor) -> Tensor:
    return (difference / packing.column(step.clamp(min=1e-12), difference)).floor().clamp(-2, 1).add(2)


def _decoded(levels: Tensor, step: Tensor) -> Tensor:
    return levels * packing.column(step.float(), levels)


def _squeezed(codes: Tensor) -> Tensor:
    """Four codes of two bits in each byte."""
    four = torch.nn.functional.pad(codes, (0, -len(codes) % 4)).view(-1, 4)
    return four[:, 0] | four[:, 1] << 2 | four[:, 2] << 4 | four[:, 3] << 6
