"""Functions of one dataclass as functions of its fields, and methods of a part as methods of the whole.

Type checkers, ``inspect.signature`` and completion see the fields, each stated once, in the dataclass.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Owner = TypeVar("Owner")
R = TypeVar("R")


def takes(kind: Callable[P, T]) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """A function of one ``kind`` as a function of its fields; one of it may stand in the place of the first."""

    def decorate(function: Callable[[T], R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(_built(kind, *args, **kwargs))

        functools.update_wrapper(call, function)
        call.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
        return call

    return decorate


def method_takes(kind: Callable[P, T]) -> Callable[[Callable[[Owner, T], R]], Callable[Concatenate[Owner, P], R]]:
    """The same of a method."""

    def decorate(method: Callable[[Owner, T], R]) -> Callable[Concatenate[Owner, P], R]:
        def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return method(self, _built(kind, *args, **kwargs))

        functools.update_wrapper(call, method)
        owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(kind).parameters.values()
        call.__signature__ = inspect.Signature([owner, *parameters])  # type: ignore[attr-defined]
        return call

    return decorate


def forwarded(part: str, method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """``method`` of the attribute ``part``, with its signature and docstring."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(getattr(self, part), *args, **kwargs)

    return call


def _built(kind: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """``kind`` of these fields; those of a first argument that is one already, or a part of one, are overridden."""
    assert isinstance(kind, type)
    if args and isinstance(args[0], kind.__mro__[:-1]):
        first, *rest = args
        fields = {name: getattr(first, name) for name in inspect.signature(type(first)).parameters}
        return kind(*rest, **(fields | kwargs))
    return kind(*args, **kwargs)
