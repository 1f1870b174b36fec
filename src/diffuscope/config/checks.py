"""Checks of a config's fields, on birth: types, positive numbers, few modules. Each raises a ValueError."""

import reprlib
import sys
from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

MOST_LEVELS = 8  # the released models have 4
MOST_LAYERS = 1024  # residual blocks and transformer layers of one network; SDXL's U-Net has 87


def typed(config: Any) -> None:
    """Refuse a value of another type than its field's: configurations come from strangers' files."""
    kinds = _kinds(cast(Hashable, type(config)))
    for each in fields(config):
        value, kind = getattr(config, each.name), kinds[each.name]
        if not _is(value, kind):
            raise ValueError(f"{each.name} is {reprlib.repr(value)}; it must be {_words(kind)}")


@cache
def _kinds(config: type) -> dict[str, Any]:
    return get_type_hints(config)


def positive(**numbers: int) -> None:
    """Refuse numbers below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {reprlib.repr(number)}; it must be a whole number of at least 1")


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a field's type. A truth is no number, and no number is infinite."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, each) for each in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(each, args[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_is(key, args[0]) and _is(each, args[1]) for key, each in value.items())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _words(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_words(each) for each in args)
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        return f"a list, of which each is {_words(args[0])}"
    if origin is Mapping:
        return f"an object, in which each value is {_words(args[1])}"
    names: dict[Any, str] = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
    return names.get(kind, "null" if kind is NoneType else f"a {kind.__name__}")


def few(levels: int, layers: int) -> None:
    """A stranger's configuration must not ask for a million of modules."""
    if not 1 <= levels <= MOST_LEVELS:
        raise ValueError(f"it has {levels} levels; 1 to {MOST_LEVELS} are possible")
    if layers > MOST_LAYERS:
        raise ValueError(f"it has {layers} layers; at most {MOST_LAYERS} are possible")
