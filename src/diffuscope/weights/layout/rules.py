"""Renaming tensors between layouts, by tables that work both ways."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffuscope.errors import WeightMismatchError, shown

HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Rename:
    """A module's name in two layouts, without ``.weight`` or ``.bias``; ``{i}`` is any one part between dots."""

    theirs: str
    ours: str

    def apply(self, key: str) -> str | None:
        """Our name of the tensor ``key``, or None if the rule does not match it."""
        match = _pattern(self.theirs).fullmatch(key)
        if match is None:
            return None
        parts = match.groupdict()
        return HOLE.sub(lambda hole: parts[f"hole_{hole[1]}"], self.ours) + "." + parts["leaf"]

    def inverse(self) -> "Rename":
        """The rule for the way back."""
        return Rename(self.ours, self.theirs)


@lru_cache(maxsize=4096)
def _pattern(theirs: str) -> re.Pattern[str]:
    body = re.sub(r"\\\{(\w+)\\\}", r"(?P<hole_\1>[^.]+)", re.escape(theirs))
    return re.compile(body + r"\.(?P<leaf>weight|bias)")


def under(theirs: str, ours: str, table: Mapping[str, str]) -> Iterator[Rename]:
    """The rules of a table, with a prefix on each side."""
    return (Rename(theirs + their_name, ours + our_name) for their_name, our_name in table.items())


def rename(
    tensors: Mapping[str, Tensor], rules: Iterable[Rename], ignored: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The same tensors under their new names, without the ``ignored``; each is matched by exactly one rule."""
    # By the number of parts, which a hole does not change, and the first of them, or "" if it has a hole.
    index: dict[tuple[int, str], list[Rename]] = {}
    for rule in rules:
        first = rule.theirs.partition(".")[0]
        index.setdefault((rule.theirs.count("."), "" if HOLE.search(first) else first), []).append(rule)
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, tensor in tensors.items():
        if key in (ignored or ()):
            continue
        module = key.rpartition(".")[0]
        parts, first = module.count("."), module.partition(".")[0]
        candidates = [*index.get((parts, first), ()), *index.get((parts, ""), ())]
        names = [name for rule in candidates if (name := rule.apply(key)) is not None]
        if len(names) != 1:
            matches = f"{len(names)} rules ({', '.join(names)})" if names else "no rule"
            raise WeightMismatchError(
                f"tensor {shown(key)} is matched by {matches[:300]}, expected exactly one; "
                "the file is of another kind of network"
            )
        (name,) = names
        if name in renamed:
            raise WeightMismatchError(
                f"tensors {shown(origin[name])} and {shown(key)} both mean {shown(name)}; keep one of them"
            )
        renamed[name], origin[name] = tensor, key
    return renamed


@dataclass(frozen=True)
class Reshape:
    """One tensor of theirs that is one or several of ours in another shape, by full names."""

    theirs: str
    ours: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, ...]]  # views where possible; ValueError where the shape does not fit
    join: Callable[[tuple[Tensor, ...]], Tensor]


def bare(theirs: str, ours: str) -> Reshape:
    """A tensor without ``.weight`` in its name."""
    return Reshape(theirs, (ours,), lambda tensor: (tensor,), lambda tensors: tensors[0])


def transposed(theirs: str, ours: str) -> Reshape:
    """A matrix that is transposed there."""
    return Reshape(
        theirs, (ours,), lambda tensor: (_matrix(tensor).t().contiguous(),), lambda tensors: tensors[0].t().contiguous()
    )


def pointwise(theirs: str, ours: str) -> Reshape:
    """A linear layer that is a 1x1 convolution there; some files have a linear one."""
    return Reshape(theirs, (ours,), lambda tensor: (_matrix(tensor),), lambda tensors: tensors[0][:, :, None, None])


def fused(theirs: str, *ours: str) -> Reshape:
    """Tensors of one size that are concatenated there, in this order."""

    def split(tensor: Tensor) -> tuple[Tensor, ...]:
        if tensor.ndim == 0 or len(tensor) % len(ours):
            raise ValueError(f"shape {list(tensor.shape)} does not split into {len(ours)}")
        return tensor.chunk(len(ours))

    return Reshape(theirs, ours, split, torch.cat)


def reshape(tensors: Mapping[str, Tensor], rules: Iterable[Reshape]) -> dict[str, Tensor]:
    """The tensors with a rule, under our names and in our shapes."""
    ours: dict[str, Tensor] = {}
    for rule in rules:
        if rule.theirs in tensors:
            try:
                ours.update(zip(rule.ours, rule.split(tensors[rule.theirs]), strict=True))
            except ValueError as error:
                raise WeightMismatchError(
                    f"tensor {rule.theirs!r} cannot be {' and '.join(rule.ours)}: {error}; "
                    "the file is of another kind of network"
                ) from error
    return ours


def reshape_back(tensors: Mapping[str, Tensor], rules: Iterable[Reshape]) -> dict[str, Tensor]:
    """Our tensors with a rule, under their names and in their shapes."""
    theirs: dict[str, Tensor] = {}
    for rule in rules:
        missing = [name for name in rule.ours if name not in tensors]
        if not missing:
            theirs[rule.theirs] = rule.join(tuple(tensors[name] for name in rule.ours))
        elif len(missing) < len(rule.ours):
            raise WeightMismatchError(f"tensor {rule.theirs!r} needs {', '.join(missing)} too; give the whole network")
    return theirs


def _matrix(tensor: Tensor) -> Tensor:
    while tensor.ndim > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    if tensor.ndim != 2:
        raise ValueError(f"shape {list(tensor.shape)} is no matrix")
    return tensor
