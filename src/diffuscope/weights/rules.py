"""Renaming tensors between layouts by tables that work both ways."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from diffuscope.errors import WeightMismatchError

HOLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Rename:
    """One module's name in two layouts, without the ``.weight`` or ``.bias``; ``{i}`` is any one dotted part."""

    theirs: str
    ours: str

    def apply(self, key: str) -> str | None:
        """Our name of the tensor that they call ``key``, or None where this rule does not speak of it."""
        match = self._pattern.fullmatch(key)
        if match is None:
            return None
        parts = match.groupdict()
        return HOLE.sub(lambda hole: parts[f"hole_{hole[1]}"], self.ours) + "." + parts["leaf"]

    def inverse(self) -> "Rename":
        """The rule that leads back."""
        return Rename(self.ours, self.theirs)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        body = re.sub(r"\\\{(\w+)\\\}", r"(?P<hole_\1>[^.]+)", re.escape(self.theirs))
        return re.compile(body + r"\.(?P<leaf>weight|bias)")


def rename(
    tensors: Mapping[str, Tensor], rules: Iterable[Rename], ignored: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The same tensors under their new names; each is matched by exactly one rule.

    Args:
        tensors: by their old names. Not modified.
        rules: the table.
        ignored: names that are left out, each with the reason.

    Raises:
        WeightMismatchError: a name matches no rule, or several, or two tensors get the same name.
    """
    plain: dict[str, list[Rename]] = {}
    holed = []
    for rule in rules:
        if HOLE.search(rule.theirs):
            holed.append(rule)
        else:
            plain.setdefault(rule.theirs, []).append(rule)
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, tensor in tensors.items():
        if ignored is not None and key in ignored:
            continue
        candidates = [*plain.get(key.rpartition(".")[0], ()), *holed]
        names = [name for rule in candidates if (name := rule.apply(key)) is not None]
        if len(names) != 1:
            found = "no rule" if not names else f"{len(names)} rules ({', '.join(names)})"
            raise WeightMismatchError(
                f"tensor {key!r} is matched by {found}, wanted exactly one; the file is of another kind of network"
            )
        name = names[0]
        if name in renamed:
            raise WeightMismatchError(f"tensors {origin[name]!r} and {key!r} both mean {name!r}; keep one of them")
        renamed[name], origin[name] = tensor, key
    return renamed
