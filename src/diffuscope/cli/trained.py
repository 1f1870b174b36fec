"""How every training ends: with the Python and the command that use its result, or with how it goes on."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from diffuscope.cli.flags import flag_of
from diffuscope.cli.terminal import Terminated, say, tell
from diffuscope.model_files import DEFAULT
from diffuscope.model_source import ModelSource

IN_DOUBLE_QUOTES = '"$`\\!'
"""Marks that a shell reads within double quotes."""


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Within, a training that is asked to end says how it goes on, if the folder of its run has a checkpoint."""
    from diffuscope.training.run_folder import CHECKPOINT

    try:
        yield
    except (KeyboardInterrupt, Terminated):
        if any(folder.rglob(CHECKPOINT)):
            tell(f"{folder} has a checkpoint: the same command again goes on from there")
        raise


def say_use(command: Sequence[str], python: str = "") -> None:
    """Print what uses a result: a line of Python, and a command, each to be copied. The command is the last line."""
    if python:
        say(f"In Python:\n{python}")
    say(f"As a command:\n{' '.join(map(quoted, command))}")


def say_next(command: Sequence[str]) -> None:
    """Print the command that goes on where a training is only a part of one."""
    say(f"Next:\n{' '.join(map(quoted, command))}")


def say_drawing(source: ModelSource, prompt: str, flags: Sequence[str], python: str, first: str = "") -> None:
    """``say_use`` of what a model of a Pipeline learned.

    Args:
        source: the model that was taught.
        prompt: draws it.
        flags: of ``generate``, beside those of the model.
        python: statements that use ``pipe`` and save an image.
        first: a statement before those.
    """
    given = {each.name: getattr(source, each.name) for each in fields(source)}
    given = {name: value for name, value in given.items() if value != getattr(ModelSource, name)}
    model = [part for name, value in given.items() for part in _flag(name, value)]
    options = given.items() - {("model", source.model)}
    call = ", ".join([repr(source.model or DEFAULT), *(f"{name}={value!r}" for name, value in sorted(options))])
    loaded = [*filter(None, [first]), "import diffuscope as ds", f"pipe = ds.load({call})", python]
    text = f" {prompt}" if prompt.startswith("-") else prompt  # else a flag
    say_use(["diffuscope", "generate", text, *flags, *model], "; ".join(loaded))


def _flag(name: str, value: object) -> list[str]:
    """An option of a model on the command line."""
    return [flag_of(name)] if name == "allow_pickle" else [flag_of(name), str(value)]


def quoted(word: str) -> str:
    """A word for a shell: in double quotes, which every shell knows, where it holds nothing that these would change."""
    if word and shlex.quote(word) == word:
        return word
    return shlex.quote(word) if any(sign in word for sign in IN_DOUBLE_QUOTES) else f'"{word}"'
