"""Keyword arguments from dataclasses: a function of one dataclass becomes a function of its fields.

Each argument is stated once, as a field. Type checkers, ``help``, ``inspect.signature`` and completion see them all.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from diffuscope.errors import nearest
from diffuscope.schema import Options, docstrings, members

P = ParamSpec("P")
T = TypeVar("T")
Owner = TypeVar("Owner")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


NONE: Mapping[str, str] = {}


def takes(kind: Callable[P, T], counterparts: Mapping[str, str] = NONE) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """Make a function of one ``kind`` a function of its fields. A ``kind`` may also be its first argument.

    Args:
        kind: a dataclass.
        counterparts: names of arguments in other programs, and what to use here.
    """

    def decorate(function: Callable[[T], R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            check_names(kind, function.__qualname__, kwargs, counterparts)
            return function(_built(kind, args, kwargs))

        _describe(call, function, kind)
        return call

    return decorate


def method_takes(
    kind: Callable[P, T], counterparts: Mapping[str, str] = NONE
) -> Callable[[Callable[[Owner, T], R]], Callable[Concatenate[Owner, P], R]]:
    """The same for a method."""

    def decorate(method: Callable[[Owner, T], R]) -> Callable[Concatenate[Owner, P], R]:
        def call(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
            check_names(kind, method.__qualname__, kwargs, counterparts)
            return method(self, _built(kind, args, kwargs))

        _describe(call, method, kind, inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD))
        return call

    return decorate


def takes_after(
    kind: Callable[P, T],
) -> Callable[[Callable[[A, B, C, T], R]], Callable[Concatenate[A, B, C, P], R]]:
    """The same for a function that takes three other arguments first, by their positions."""

    def decorate(function: Callable[[A, B, C, T], R]) -> Callable[Concatenate[A, B, C, P], R]:
        def call(first: A, second: B, third: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
            check_names(kind, function.__qualname__, kwargs, NONE)
            return function(first, second, third, _built(kind, args, kwargs))

        before = [*inspect.signature(function).parameters.values()][:3]
        _describe(call, function, kind, *(each.replace(kind=inspect.Parameter.POSITIONAL_ONLY) for each in before))
        return call

    return decorate


def forwarded(part: str, method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """``method`` of the attribute ``part``, with its signature and docstring."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(getattr(self, part), *args, **kwargs)

    return call


def _built(kind: Callable[P, T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """``kind`` of these fields; those of a first argument of this kind, or of a base of it, are defaults."""
    assert isinstance(kind, type)
    if args and isinstance(args[0], kind.__mro__[:-1]):
        first, *rest = args
        fields = {name: getattr(first, name) for name in _names(type(first))}
        return kind(*rest, **(fields | kwargs))
    return kind(*args, **kwargs)


_NAMES: dict[Callable[..., Any], tuple[str, ...]] = {}


def _names(kind: Callable[..., Any]) -> tuple[str, ...]:
    """The keywords of a dataclass."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(inspect.signature(kind).parameters)
    return _NAMES[kind]


def check_names(kind: Callable[..., Any], function: str, given: Iterable[str], counterparts: Mapping[str, str]) -> None:
    """TypeError for an argument that does not exist, as Python raises it, with its counterpart or a similar name."""
    known = _names(kind)
    for name in given:
        if name not in known:
            if name in counterparts:
                raise TypeError(f"{function}() has no argument {name!r}: {counterparts[name]}")
            longer = next((f" Did you mean {full!r}?" for full in known if name in full), "")
            hint = f" {nearest(name, known)}".rstrip() or longer
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}.{hint}")


def _describe(call: Any, function: Callable[..., Any], kind: Any, *owner: inspect.Parameter) -> None:
    """Give ``call`` the name and docstring of ``function``, and the fields of ``kind`` as signature and Args."""
    functools.update_wrapper(call, function)
    types = get_type_hints(kind)  # without the marks of Annotated, which nobody reads in a notebook
    fields = inspect.signature(kind).parameters.values()
    parameters = [*owner, *(field.replace(annotation=types[field.name]) for field in fields)]
    returned = inspect.signature(function).return_annotation
    call.__signature__ = inspect.Signature(parameters, return_annotation=returned)
    stated = (docstrings(base) for base in reversed(kind.__mro__) if is_dataclass(base))
    texts = dict(itertools.chain.from_iterable(stated))
    arguments = "\n".join(
        ["Args:", *(f"    {field.name}: {texts[field.name]}{_nested(types[field.name])}" for field in fields)]
    )
    head, *sections = (inspect.getdoc(function) or "").partition("\n\nR")  # Returns or Raises
    call.__doc__ = f"{head}\n\n{arguments}{''.join(sections)}"


def _nested(annotation: Any) -> str:
    """How Python gives options within options; other doors have them as JSON or flags."""
    kind, *others = members(annotation)
    if others or not (isinstance(kind, type) and issubclass(kind, Options)):
        return ""
    return f": a {kind.__name__}, or a dict of its fields"
