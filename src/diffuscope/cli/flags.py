"""Commands from classes of options: each option is one flag, under the heading of its group.

tyro only splits the command line and prints help. Texts become values by the options' own types, so a mistake is
the same error as in Python, with the flag's name.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg

from diffuscope.cli.usage import prompt_of
from diffuscope.config import Preset
from diffuscope.errors import DiffuscopeError, InputError, Unquoted
from diffuscope.schema import Option, conformed, is_mapping, members, options

Run = Callable[..., int | None]

NAMES = {
    "num_inference_steps": "steps",
    "num_images_per_prompt": "count",
    "mask_image": "mask",
    "guidance_options": "guidance",
    "embeddings": "embedding",
}
"""Option -> flag, where the usual flag is shorter."""

ABSENT = "\0"
"""The text of a flag that is not given: no command line can hold it. (With None tyro takes twice as long.)"""

WITHOUT_FLAG = {"branch"}
"""Options that a command line cannot hold; ``diffuscope branch`` makes them."""

WITHOUT_DASHES = {"prompt", "requests", "picture", "pictures"}
"""Arguments that stand behind a command without a flag."""

PRESETS = {option.name for option in fields(Preset)}
PLACEHOLDERS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{True,False}"}


class Flag(NamedTuple):
    """One option on the command line."""

    argument: str
    """Its name in Python, with dots: "guidance_options.rescale"."""
    option: Option
    group: str


def flag_of(argument: str) -> str:
    """The flag of an argument: "--guidance-rescale" of "guidance_options.rescale"."""
    first, _, rest = re.sub(r"^(branch|loop)\.", "", argument).partition(".")
    if not first.isidentifier() or first in WITHOUT_DASHES:
        return argument
    name = NAMES.get(first, first)
    if first == "sampler_options" and rest:
        return f"--sampler-options {rest}"
    return "--" + "-".join(part for part in (name, rest) if part).replace("_", "-")


def sentence(error: DiffuscopeError) -> str:
    """An error's message for the command line: each argument by its flag, and nothing by its name in Python."""
    if not isinstance(error, InputError):
        return in_flags(str(error))
    owner, dot, _ = error.argument.rpartition(".")
    want, hint = (in_flags(text, owner if dot else None) for text in (error.want, error.hint))
    none = re.compile(r"^None\b")  # of Python
    got = Unquoted("nothing") if error.got is None else error.got
    return InputError(error.argument, got, none.sub("nothing", want), hint).sentence(flag_of(error.argument))


def in_flags(text: str, owner: str | None = None) -> str:
    """``text`` with flags where it names arguments: "upscale=1", "mask_image", "guidance_options.exact".

    Args:
        text: of a message.
        owner: an argument, whose options the text names without it.
    """
    from diffuscope.model_source import ModelSource
    from diffuscope.request import Request

    flags = {flag.argument: flag_of(flag.argument) for kind in (Request, ModelSource) for flag in _flags(kind)}
    flags |= {name: flag_of(name) for name in ("image", "mask_image", "lora_dir")}
    distinct = sorted((name for name in flags if re.search(r"[._]", name)), key=len, reverse=True)
    switches = "|".join(flag.argument for flag in _flags(ModelSource) if flag.option.annotation is bool)
    text = re.sub(rf"\b({switches})=True\b", lambda found: flags[found[1]], text)
    text = re.sub(rf"\b({'|'.join(map(re.escape, flags))})=(?=[\w\"'])", lambda found: f"{flags[found[1]]} ", text)
    text = re.sub(
        rf"(?<![\w'\"-])({'|'.join(map(re.escape, distinct))})(?![\w'\"])", lambda found: flags[found[1]], text
    )
    text = re.sub(r"(--[\w-]+) ([\"'])(\w+)\2", r"\1 \3", text)
    if owner is not None:
        within = {name.removeprefix(f"{owner}."): flag for name, flag in flags.items() if name.startswith(f"{owner}.")}
        names = "|".join(sorted(within, key=len, reverse=True))
        text = re.sub(rf"(?<![\w-])({names})\b", lambda found: within[found[1]], text) if names else text
    return text


def command(positional: str, omit: Collection[str] = (), otherwise: str = "") -> Callable[[Run], Run]:
    """Make a function of dataclasses a command for tyro, with a flag for each of their fields.

    Args:
        positional: the option that has no flag.
        omit: options that the command does not offer.
        otherwise: what the option without a flag is where it is left out; without this it may not be.
    """

    def decorate(run: Run) -> Run:
        kinds = {name: kind for name, kind in get_type_hints(run).items() if name != "return"}
        flags = {name: [flag for flag in _flags(kind) if flag.argument not in omit] for name, kind in kinds.items()}

        def parsed(texts: Any) -> int | None:
            by_name = {name: text for group in fields(texts) for name, text in vars(getattr(texts, group.name)).items()}
            words = by_name[positional] or ((otherwise,) if otherwise else ())
            by_name[positional] = _positional(_name(run), positional, words)
            try:
                return run(**{name: _instance(kind, flags[name], by_name) for name, kind in kinds.items()})
            except InputError as error:
                if error.argument in WITHOUT_DASHES and f"--{error.argument}" in known:
                    error.argument = f"--{error.argument}"  # a flag of this command
                raise

        parsed.__doc__ = run.__doc__
        every = [flag for name in kinds for flag in flags[name]]
        parsed.__annotations__ = {
            "texts": Annotated[_parser(every, positional, otherwise), arg(name="")],
            "return": int | None,
        }
        known = {f"--{flag_of(flag.argument).removeprefix('--')}" for flag in every if flag.argument != positional}
        vars(parsed)["known_flags"] = {"-h", "--help", "-o", *known}
        return parsed

    return decorate


def _name(run: Run) -> str:
    """The words by which a command is called: "train word"."""
    from diffuscope.cli import COMMANDS

    path = f"{run.__module__}:{run.__name__}"
    return next((name for name, (target, _) in COMMANDS.items() if target == path), run.__name__)


def _positional(command: str, name: str, words: Sequence[str]) -> str:
    """The text of the argument that has no flag: a prompt of any number of words, or one word."""
    if name == "prompt":
        return prompt_of(command, words)
    if len(words) != 1:
        got = f"{len(words)}: {', '.join(words)}" if words else "none"
        hint = f"See `diffuscope {command} --help`"
        if os.path.exists(whole := " ".join(words)) and words:  # noqa: PTH110 (False for impossible names)
            hint = f'A name with spaces is written in quotes: "{whole}"'
        raise DiffuscopeError(f"{command} takes one {name.upper()}, got {got}. {hint}")
    return words[0]


def _flags(kind: type[Any], prefix: str = "", group: str = "") -> Iterator[Flag]:
    for option in options(kind):
        if option.name in WITHOUT_FLAG:
            continue
        (member, *_) = members(option.annotation)
        if is_dataclass(member) and isinstance(member, type):
            yield from _flags(member, f"{prefix}{option.name}.", option.group)
        else:
            yield Flag(prefix + option.name, option, option.group or group)


def _instance(kind: type[Any], flags: list[Flag], texts: dict[str, Any]) -> Any:
    """An instance of ``kind`` from the texts of its flags; absent flags keep their defaults."""
    values: dict[str, Any] = {}
    for flag in flags:
        text = texts[flag.argument.replace(".", "__")]
        if text not in (False, None, ABSENT):
            *path, name = flag.argument.split(".")
            owner = values.setdefault(path[0], {}) if path else values
            value = value_of(text, flag)
            owner[name] = value if path else conformed(value, flag.option.annotation, flag.argument)
    return kind(**values)


def value_of(text: Any, flag: Flag) -> Any:
    """The value of a flag's text: a number, a choice, a list, NAME=VALUE pairs, or the text itself."""
    kinds = members(flag.option.annotation)
    if isinstance(text, bool):
        return text
    if is_mapping(get_origin(kinds[0])):
        inner = members(get_args(kinds[0])[1])
        return dict(_pair(each, flag, inner) for each in text)
    if isinstance(text, tuple):
        inner = get_args(kinds[0])[0]
        return [_scalar(each, members(inner)) for each in text]
    if "," in text and any(_is_list(kind) and members(get_args(kind)[0])[0] in (int, float) for kind in kinds):
        return [_scalar(each, (int, float)) for each in text.split(",")]
    return _scalar(text, kinds)


def _pair(text: str, flag: Flag, kinds: tuple[Any, ...]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(flag.argument, text, "NAME=VALUE, such as eta=0.5")
    return name, _scalar(value, kinds)


def _scalar(text: str, kinds: tuple[Any, ...]) -> Any:
    for kind in kinds:
        choices = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else ()
        for choice in choices:
            if text == str(choice):
                return choice
        if kind in (int, float, Path):
            with suppress(ValueError):
                return kind(text)
    return text


def _is_list(kind: Any) -> bool:
    """Whether a type is a sequence."""
    return get_origin(kind) is not Literal and len(get_args(kind)) > 0


def _is_open(kind: Any) -> bool:
    """Whether a type is a sequence of any length."""
    args = get_args(kind)
    return _is_list(kind) and (len(args) == 1 or args[-1] is Ellipsis)


def _parser(flags: list[Flag], positional: str, otherwise: str) -> type[Any]:
    """A dataclass with one dataclass per group of flags, whose fields are texts."""
    groups: dict[str, list[Any]] = {}
    for flag in flags:
        groups.setdefault(flag.group, []).append(_field(flag, positional, otherwise))
    kinds = {title: make_dataclass("Group", made, repr=False, eq=False) for title, made in groups.items()}
    headed = [
        (title.replace(" ", "_"), Annotated[kind, arg(help="")], field(default_factory=kind))
        for title, kind in kinds.items()
    ]
    return make_dataclass("Flags", headed, repr=False, eq=False)


def _field(flag: Flag, positional: str, otherwise: str) -> tuple[str, Any, Any]:
    option, kinds = flag.option, members(flag.option.annotation)
    if flag.argument == positional:
        words = Positional[Union[None, tuple[str, ...]]]  # noqa: UP007 (see _text_type)
        hint = f"(default: {otherwise})" if otherwise else "(required)"
        about = arg(metavar=flag.argument.upper(), help=option.help, help_behavior_hint=hint)
        return flag.argument, Annotated[words, about], field(default=None)
    is_switch = option.annotation is bool
    about = arg(
        name=flag_of(flag.argument).removeprefix("--"),
        prefix_name=False,
        metavar=None if is_switch else _placeholder(kinds[0]),
        help=option.help,
        help_behavior_hint=_default(flag),
        aliases=("-o",) if flag.argument == "out" else None,
    )
    kind, default = (bool, False) if is_switch else _text_type(kinds)
    return flag.argument.replace(".", "__"), Annotated[kind, about], field(default=default)


def _text_type(kinds: tuple[Any, ...]) -> tuple[Any, Any]:
    """The type of a flag's texts (one, a fixed number, or any number), and its default."""
    texts: Any = str
    if is_mapping(get_origin(kinds[0])) or _is_open(kinds[0]):
        texts = tuple[str, ...]
    elif get_origin(kinds[0]) is tuple:
        texts = tuple[(str,) * len(get_args(kinds[0]))]  # type: ignore[misc]
    # None first: else tyro checks each default with typeguard, whose import takes a third of the time of help.
    return (str, ABSENT) if texts is str else (Union[None, texts], None)  # noqa: UP007


def _placeholder(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if is_mapping(get_origin(kind)):
        return "NAME=VALUE"
    if get_origin(kind) is not None:
        return " ".join(_placeholder(members(each)[0]) for each in get_args(kind) if each is not Ellipsis)
    return PLACEHOLDERS[kind]


def _default(flag: Flag) -> str:
    if flag.argument in PRESETS:
        return "(default: model's preset)"
    default = flag.option.default
    return "" if default in (None, "", False, (), {}) else f"(default: {default})"
