"""The ``tap`` argument of a call, in each of its forms, as one Tap with checked names."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.nn.taps import tap_points
from diffuscope.types import Tap

if TYPE_CHECKING:
    from diffuscope.pipeline.request import Request

TapArgument = Mapping[str, Callable[[Tensor], Tensor | None]] | Callable[[str, Tensor], Tensor | None] | Tap
"""Name or glob -> function of the value; or one function of name and value that sees everything; or a Tap."""


class Prepared(Tap, Protocol):
    """A Tap that is told what will run: it has ``prepare``, which is called before any network."""

    def prepare(self, components: Sequence[nn.Module], request: "Request | None") -> None:
        """Check names against the ``components``; ``request`` is the call, None where only a part of it runs."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A Tap that applies each name's functions in turn. A function that answers None leaves the value as it is."""

    functions: Mapping[str, Sequence[Callable[[Tensor], Tensor | None]]]

    def wants(self, name: str) -> bool:
        """Whether the mapping named this value."""
        return name in self.functions

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value after all its functions."""
        for function in self.functions[name]:
            answer = function(value)
            value = value if answer is None else answer
        return value


@dataclass(frozen=True, slots=True)
class Everything:
    """A Tap around one function of name and value. Where it answers None the value stays."""

    function: Callable[[str, Tensor], Tensor | None]

    def wants(self, name: str) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The function's answer, or the value."""
        answer = self.function(name, value)
        return value if answer is None else answer


def chosen(tap: TapArgument | None, components: Sequence[nn.Module], request: "Request | None" = None) -> Tap | None:
    """The Tap that the argument means; None for none. One that has ``prepare`` is told of ``request``.

    Raises:
        InputError: a name or glob that matches no value of the components; the message has the nearest names.
    """
    if tap is None:
        return None
    if not isinstance(tap, Mapping):
        if not callable(tap):
            raise InputError(f"tap is a {type(tap).__name__}; give a mapping from name to function, or one function")
        if hasattr(tap, "prepare"):
            cast(Prepared, tap).prepare(components, request)
        return cast(Tap, tap) if hasattr(tap, "wants") else Everything(tap)
    functions: dict[str, list[Callable[[Tensor], Tensor | None]]] = {}
    for pattern, function in tap.items():
        matched = matching(pattern, components)
        if not callable(function):
            raise InputError(f"the tap for {pattern!r} is a {type(function).__name__}; give a function of the value")
        for name in matched:
            functions.setdefault(name, []).append(function)
    return Chosen(functions) if functions else None


def matching(pattern: str, components: Sequence[nn.Module]) -> list[str]:
    """The names of the components' inner values that a name or glob means.

    Raises:
        InputError: there are none; the message has the nearest names.
    """
    names = [name for component in components for name in tap_points(component)]
    matched = [name for name in names if fnmatchcase(name, pattern)]
    if not matched:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
        raise InputError(
            f"no inner value is called {pattern!r}; the nearest names are {', '.join(near) or names[0]}. "
            "`tap_points(component)` lists them all"
        )
    return matched
