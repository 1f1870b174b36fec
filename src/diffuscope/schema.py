"""Options as frozen dataclasses: checked on construction, read from and written to JSON, described by a JSON Schema.

A class states each option once: name, type with its range, default, and a docstring below. All else is read from that.
"""

import ast
import inspect
import json
import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from numbers import Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt, MaxLen, MinLen

from diffuscope.errors import InputError, Unquoted, nearest

MISFIT = object()
"""Returned for a value that does not fit its annotation."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_Fit = Callable[[Any, str], Any]
"""A value and its argument's name to the value as it is kept, or MISFIT."""


class Group(NamedTuple):
    """Marks the first option of a group: a heading in help texts and forms."""

    title: str


class Option(NamedTuple):
    """One field of a class of options."""

    name: str
    key: str
    """Its name in JSON: "from" of a field ``from_``, which is a word of Python's own."""
    annotation: Any
    default: Any
    """``dataclasses.MISSING`` where it must be given."""
    help: str
    group: str
    fits: _Fit
    """The check of its annotation."""


class Options:
    """Base of a frozen dataclass of options. A value that does not fit its annotation is an InputError."""

    def __post_init__(self) -> None:
        for option in options(type(self)):
            given = getattr(self, option.name)
            if given is not option.default:  # a default fits: most options of a call have theirs
                object.__setattr__(self, option.name, conformed(given, option.annotation, option.key, option.fits))

    def to_dict(self) -> dict[str, Any]:
        """JSON values by name. Of nested options only those that differ from their defaults."""
        return {option.key: _json_value(getattr(self, option.name)) for option in options(type(self))}

    def to_json(self) -> str:
        """``to_dict`` as one line of JSON."""
        return _ENCODER.encode(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options with these values; the others have their defaults.

        Raises:
            InputError: a name is unknown, or a value does not fit.
        """
        known = {option.key: option.name for option in options(cls)}
        for name in values:
            if name not in known:
                suggestion = nearest(name, known) or f"There are {', '.join(map(repr, known))}"
                raise InputError(name, values[name], f"an option of {cls.__name__}", suggestion)
        for option in options(cls):
            if option.default is MISSING and option.key not in values:
                raise InputError(option.key, Unquoted("nothing"), wanted(option.annotation))
        return cls(**{known[key]: value for key, value in values.items()})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of ``to_json``.

        Raises:
            InputError: no JSON object, a name twice or unknown, NaN or Infinity, or a value that does not fit.
        """
        return cls.from_dict(loaded_object(text))


def loaded_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        InputError: no JSON object, or a name twice.
    """
    try:
        values = json.loads(text, object_pairs_hook=_without_repeats)  # NaN fits no option
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError("json", Unquoted(f"invalid JSON ({error})"), "one JSON object") from None
    if not isinstance(values, dict):
        raise InputError("json", values, "one JSON object")
    return values


def options(kind: type[Any]) -> tuple[Option, ...]:
    """The options that a dataclass states, or all direct subclasses of ``Options`` among its bases, in their order."""
    if kind not in _CACHE:
        stated = [base for base in reversed(kind.__mro__) if Options in base.__bases__] or [kind]
        _CACHE[kind] = tuple(option for base in stated for option in _options(base))
    return _CACHE[kind]


_CACHE: dict[type[Any], tuple[Option, ...]] = {}


def _options(stated: type[Any]) -> Iterator[Option]:
    annotations, texts, group = get_type_hints(stated, include_extras=True), dict(docstrings(stated)), ""
    for field in fields(stated):
        annotation = annotations[field.name]
        group = next((mark.title for mark in _marks(annotation) if isinstance(mark, Group)), group)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        name, fits = field.name, _fits(annotation)
        yield Option(name, name.removesuffix("_"), annotation, default, texts[name], group, fits)


def schema(kind: type[Options]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a class of options: types, ranges, choices, defaults, help and groups."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(kind)}


def conformed(value: object, annotation: Any, argument: str, fits: _Fit | None = None) -> Any:
    """``value`` as its annotation has it: int or float, a tuple, nested options. ``fits`` is its check, if known."""
    fit = (fits or _fits(annotation))(value, argument)
    if fit is MISFIT:
        raise InputError(argument, value, wanted(annotation))
    return fit


def wanted(annotation: Any, many: bool = False) -> str:
    """An annotation in words that complete "expected ..."; in the plural for ``many``. A mark may be the words."""
    base, marks = split_annotated(annotation)
    origin, args = get_origin(base), get_args(base)
    if words := [mark for mark in marks if isinstance(mark, str)]:
        return words[0]
    if origin in (Union, UnionType):
        return " or ".join(wanted(member, many) for member in args if member is not NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}" if len(args) > 2 else " or ".join(map(repr, args))
    if base in _WORDS:
        bounds = _range(marks)
        singular = "number" if base is float and bounds else _WORDS[base]
        return (f"{singular}s" if many else f"a {singular}") + bounds
    if base is bool:
        return "True or False"
    if isinstance(base, type) and issubclass(base, Options):
        return f"a dict with some of {', '.join(option.name for option in options(base))}"
    if is_mapping(origin):
        return "a dict"
    if origin is None:
        return f"a {base.__name__}"
    count = "" if _is_open(args) else f"{len(args)} "
    return f"a list of {count}{wanted(args[0], many=True)}"


_WORDS: dict[Any, str] = {int: "whole number", float: "finite number", str: "string"}


def members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union except None, without marks; for another annotation, its one type."""
    base, _ = split_annotated(annotation)
    kinds = get_args(base) if get_origin(base) in (Union, UnionType) else (base,)
    return tuple(split_annotated(kind)[0] for kind in kinds if kind is not NoneType)


def is_mapping(origin: Any) -> bool:
    """Whether a type's origin is a kind of dict."""
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_open(args: tuple[Any, ...]) -> bool:
    """Whether a sequence of these type arguments has any length."""
    return len(args) == 1 or args[-1] is Ellipsis


def split_annotated(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type in an annotation, and its marks: ranges, a least length, a group."""
    return (annotation.__origin__, annotation.__metadata__) if get_origin(annotation) is Annotated else (annotation, ())


def _marks(annotation: Any) -> tuple[Any, ...]:
    return split_annotated(annotation)[1]


def _bounds(marks: Sequence[Any]) -> dict[str, Any]:
    """Bounds by their names: ge, gt, le, lt."""
    single = [part for mark in marks for part in (mark if isinstance(mark, Interval) else (mark,))]
    names: dict[type, str] = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt"}
    return {names[type(mark)]: getattr(mark, names[type(mark)]) for mark in single if type(mark) in names}


def _lengths(marks: Sequence[Any]) -> tuple[int | None, int | None]:
    """The least and the most members, or characters; None where there is no limit."""
    least = next((mark.min_length for mark in marks if isinstance(mark, MinLen)), None)
    return least, next((mark.max_length for mark in marks if isinstance(mark, MaxLen)), None)


def _range(marks: Sequence[Any]) -> str:
    bounds = {name: f"{bound:,}" if abs(bound) < 1e9 else "2^63 - 1" for name, bound in _bounds(marks).items()}
    if bounds.keys() == {"ge", "le"}:
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    text = " and ".join(f"{words[name]} {bound}" for name, bound in bounds.items())
    if (most := _lengths(marks)[1]) is not None:
        text = f"at most {most:,} characters"
    return f" {'of ' * text.startswith('at')}{text}" if text else ""


def _fits(annotation: Any) -> _Fit:
    """The check of an annotation."""
    base, marks = split_annotated(annotation)
    of_type = _of_type(base)
    tests = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
    limits = [(tests[name], bound) for name, bound in _bounds(marks).items()]
    lengths = zip((lambda x, least: len(x) >= least, lambda x, most: len(x) <= most), _lengths(marks), strict=True)
    limits += [(test, length) for test, length in lengths if length is not None]
    if not limits:
        return of_type

    def fit(value: object, argument: str) -> Any:
        found = of_type(value, argument)
        is_in = found is MISFIT or found is None or all(test(found, limit) for test, limit in limits)
        return found if is_in else MISFIT

    return fit


def _of_type(base: Any) -> _Fit:
    origin, args = get_origin(base), get_args(base)
    if origin in (Union, UnionType):
        return partial(_first, [_fits(member) for member in args])
    if origin is Literal:
        return lambda value, _: next((each for each in args if type(each) is type(value) and each == value), MISFIT)
    if base in _SCALARS:
        return _SCALARS[base]
    if isinstance(base, type) and is_dataclass(base):
        return partial(_nested, base)
    if origin is None:
        return lambda value, _: value if isinstance(value, base) else MISFIT
    if is_mapping(origin):
        return partial(_mapping, args[1])
    return partial(_sequence, [_fits(kind) for kind in args if kind is not Ellipsis], _is_open(args))


def _first(checks: Sequence[_Fit], value: object, argument: str) -> Any:
    return next((fit for check in checks if (fit := check(value, argument)) is not MISFIT), MISFIT)


def _nested(kind: Any, value: object, argument: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        return MISFIT
    try:
        return kind.from_dict(value)
    except InputError as error:
        raise InputError(f"{argument}.{error.argument}", error.got, error.want, error.hint) from None


def _mapping(annotation: Any, value: object, argument: str) -> Any:
    if not isinstance(value, Mapping):
        return MISFIT
    return {str(name): conformed(member, annotation, f"{argument}.{name}") for name, member in value.items()}


def _sequence(checks: Sequence[_Fit], is_open: bool, value: object, argument: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return MISFIT
    every = [checks[0]] * len(value) if is_open else checks
    if len(every) != len(value):
        return MISFIT
    members = tuple(check(member, argument) for member, check in zip(value, every, strict=True))
    return MISFIT if any(member is MISFIT for member in members) else members


def _integer(value: Any, argument: str) -> Any:  # noqa: ARG001
    if isinstance(value, bool):
        return MISFIT
    try:
        return operator.index(value)
    except TypeError:  # an array of several numbers too
        return MISFIT


def _number(value: object, argument: str) -> Any:  # noqa: ARG001
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value) if math.isfinite(value) else MISFIT
    return MISFIT


def _string(value: object, argument: str) -> Any:
    if not isinstance(value, str):
        return MISFIT
    try:
        value.encode()
    except UnicodeEncodeError as error:
        flaw = Unquoted(f"an unpaired surrogate, U+{ord(value[error.start]):04X}")
        raise InputError(argument, flaw, "valid Unicode") from None
    return value


_SCALARS: dict[Any, Any] = {
    NoneType: lambda value, _: None if value is None else MISFIT,
    bool: lambda value, _: value if isinstance(value, bool) else MISFIT,
    int: _integer,
    float: _number,
    str: _string,
}


def _json_value(value: Any) -> Any:
    if type(value) in _TYPES:
        return value
    if isinstance(value, Options):
        parts = ((option, getattr(value, option.name)) for option in options(type(value)))
        return {option.key: _json_value(part) for option, part in parts if part != option.default}
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _schema(kind: type[Options], within: tuple[type[Options], ...] = ()) -> dict[str, Any]:
    """That of ``kind`` within those of others. One that holds itself is a reference, if it is the whole document."""
    if kind in within:
        return {"$ref": "#"} if kind is within[0] else {"title": kind.__name__, "type": "object"}
    within = (*within, kind)
    properties, required = {}, [option.key for option in options(kind) if option.default is MISSING]
    for option in options(kind):
        about = {"description": option.help}
        about |= {} if option.default is MISSING else {"default": _json_value(option.default)}
        group = {"x-group": option.group} if option.group else {}
        properties[option.key] = _property(option.annotation, within) | about | group
    text = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    head = {"title": kind.__name__, "description": text, "type": "object"}
    needs = {"required": required} if required else {}
    return {**head, "properties": properties, **needs, "additionalProperties": False}


def _property(annotation: Any, within: tuple[type[Options], ...]) -> dict[str, Any]:
    base, marks = split_annotated(annotation)
    origin, args = get_origin(base), get_args(base)
    if origin in (Union, UnionType):
        return {"anyOf": [_property(member, within) for member in args]}
    if origin is Literal:
        return {"enum": list(args)}
    if base in _TYPES:
        names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
        bounds = {names[name]: bound for name, bound in _bounds(marks).items()}
        most = _lengths(marks)[1]
        return {"type": _TYPES[base]} | bounds | ({} if most is None else {"maxLength": most})
    if isinstance(base, type) and issubclass(base, Options):
        return _schema(base, within)
    if is_mapping(origin):
        return {"type": "object", "additionalProperties": _property(args[1], within)}
    size = {"minItems": len(args), "maxItems": len(args)} if origin is tuple else {"minItems": _lengths(marks)[0] or 0}
    return {"type": "array", "items": _property(args[0], within), **size}


_TYPES: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null"}


def docstrings(kind: Any) -> Iterator[tuple[str, str]]:
    """(name, docstring) of each field that a class states itself."""
    module = ast.parse(inspect.getsource(sys.modules[kind.__module__]))  # of the class alone, inspect is slower
    stated = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    name = ""
    for node in stated.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            yield name, " ".join(str(node.value.value).split())
        name = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if _string(name, "json") in members:
            raise InputError(name, Unquoted("it twice"), "each name once")
        members[name] = value
    return members
