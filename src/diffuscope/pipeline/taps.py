"""The ``tap`` argument of a call, in each of its forms, as one Tap whose names are checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, cast

from torch import Tensor, nn

from diffuscope.errors import InputError, nearest
from diffuscope.nn.taps import tap_points
from diffuscope.pipeline.plan import Plan
from diffuscope.types import Tap, TapArgument


class PreparedTap(Tap, Protocol):
    """A Tap that knows what will run: its ``prepare`` is called before any network."""

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Check names against the ``components``; without a ``plan`` a part of the model runs by itself."""


@dataclass(frozen=True, slots=True)
class SelectedTap:
    """Applies each name's functions in turn; None from a function keeps the value."""

    functions: Mapping[str, Sequence[Callable[[Tensor], Tensor | None]]]

    def wants(self, name: str) -> bool:
        """Whether there is a function for this value."""
        return name in self.functions

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value after all its functions."""
        for function in self.functions[name]:
            replacement = function(value)
            value = value if replacement is None else replacement
        return value


@dataclass(frozen=True, slots=True)
class CatchAllTap:
    """One function of name and value for everything; None from it keeps the value."""

    function: Callable[[str, Tensor], Tensor | None]

    def wants(self, name: str) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value after the function."""
        replacement = self.function(name, value)
        return value if replacement is None else replacement


def selected(tap: TapArgument | None, components: Sequence[nn.Module], plan: Plan | None = None) -> Tap | None:
    """The Tap of a ``tap`` argument, its names checked; None for None."""
    if tap is None:
        return None
    if not isinstance(tap, Mapping):
        if not callable(tap):
            raise InputError("tap", tap, "a mapping from names to functions, or one function")
        if hasattr(tap, "prepare"):
            cast(PreparedTap, tap).prepare(components, plan)
        return cast(Tap, tap) if hasattr(tap, "wants") else CatchAllTap(tap)
    functions: dict[str, list[Callable[[Tensor], Tensor | None]]] = {}
    for pattern, function in tap.items():
        matched = matching(pattern, components)
        if not callable(function):
            raise InputError(f"tap[{pattern!r}]", function, "a function of the value")
        for name in matched:
            functions.setdefault(name, []).append(function)
    return SelectedTap(functions) if functions else None


def matching(pattern: str, components: Sequence[nn.Module]) -> list[str]:
    """The names of the components' tap points that a name or glob matches, at least one."""
    names = [name for component in components for name in tap_points(component)]
    matched = [name for name in names if fnmatchcase(name, pattern)]
    if not matched:
        hint = nearest(pattern, names) or f"``tap_points(component)`` lists them all, from {names[0]}"
        raise InputError("tap", pattern, "the name of a tap point, or a glob", hint)
    return matched
