"""The ``diffuscope`` command: a table of commands, each in a file of its own that is imported when it is called."""

import contextlib
import difflib
import functools
import importlib
import io
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from diffuscope.cli import process
from diffuscope.cli.terminal import Terminated, say, signals, streams, tell, tell_all
from diffuscope.errors import DiffuscopeError, is_out_of_memory

COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("diffuscope.cli.generate:generate", "generate images from a prompt"),
    "batch": ("diffuscope.cli.batch:batch", "generate the images of a list of requests, on one GPU or several"),
    "info": ("diffuscope.cli.info:info", "describe a model, a weight file or an image"),
    "verify": ("diffuscope.cli.verify:verify", "compare released weights with published numbers and images"),
    "replay": ("diffuscope.cli.replay:replay", "generate an image again from its receipt, and compare"),
    "branch": ("diffuscope.cli.branch:branch", "go on from a step of an image's run with something changed"),
    "serve": ("diffuscope.cli.serve:serve", "serve a model over HTTP"),
    "lab": ("diffuscope.cli.lab:lab", "open a page in which one sees through a model"),
    "samplers": ("diffuscope.cli.samplers:samplers", "list the samplers: order, network calls per step, noise"),
    "schema": ("diffuscope.cli.schema:schema", "print the JSON Schema of a call's options"),
    "explain": ("diffuscope.cli.explain:explain", "write a page that shows how a model generates one image"),
    "inspect": ("diffuscope.cli.inspect:inspect", "write the tensors of an experiment on one call"),
    "data build": ("diffuscope.cli.data:build", "build the corpus of captioned vector images"),
    "train": ("diffuscope.cli.train:train", "run stages of the emoji recipe"),
    "train digits": ("diffuscope.cli.digits:digits", "train a model of handwritten digits from nothing"),
    "train fashion": ("diffuscope.cli.digits:fashion", "the same for ten kinds of clothes, on a GPU"),
    "train word": ("diffuscope.cli.finetune:word", "teach a model a new word (textual inversion)"),
    "train lora": ("diffuscope.cli.finetune:lora", "train a LoRA on your pictures"),
    "train imagic": ("diffuscope.cli.finetune:imagic", "edit one picture by a text (Imagic)"),
    "eval": ("diffuscope.cli.eval:evaluate", "score a model: autoencoder, retrieval, colours, tag words"),
    "eval sheet": ("diffuscope.cli.eval:contact_sheet", "generate a contact sheet of 64 fixed prompts"),
    "eval preset": ("diffuscope.cli.eval:preset", "score samplers, steps and guidance scales, to choose a preset"),
    "eval classifier": ("diffuscope.cli.eval:classifier", "train the independent classifier of the scores"),
    "bench": ("diffuscope.cli.bench:bench", "measure how fast a model is on this machine, beside other programs"),
    "doctor": ("diffuscope.cli.doctor:doctor", "check this machine, and suggest what would make it faster"),
}
"""Name -> (module:function, one line of help). A name may be two words. The function's signature is its flags."""

NARROWEST = 20
"""Columns for which help is laid out, at least."""

OK, OUR_FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def command() -> NoReturn:
    """The command as a process: ``main``, and an end without what CUDA and Python take to free all memory."""
    leave = process.Exit()
    leave(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 a mistake in what was asked, 1 our fault, 130 Ctrl-C."""
    if argv is not None:
        with streams(), signals():
            return _guarded(list(argv))
    process.begin()
    with streams(), signals():
        code = _guarded(sys.argv[1:])
    process.end()
    return code


def _guarded(arguments: list[str]) -> int:
    """The exit code of a command line; what goes wrong is told."""
    try:
        code = _answer(arguments)
        sys.stdout.flush()
        return code
    except DiffuscopeError as error:
        from diffuscope.cli.flags import sentence

        tell(f"error: {sentence(error)}")
        return MISTAKE
    except (KeyboardInterrupt, Terminated) as stop:
        tell("stopped")
        return 128 + stop.number if isinstance(stop, Terminated) else INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        return OK
    except Exception as error:
        if is_out_of_memory(error):
            what = " while loading the libraries" if isinstance(error, ImportError) else ""
            tell(f"error: out of memory{what}. Free memory, or use a smaller size, or fewer images in one call")
            return MISTAKE
        tell_all(traceback.format_exc().rstrip())
        tell("this is a bug in diffuscope, not your mistake; please report it with the lines above")
        return OUR_FAULT


def _answer(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        say(_help())
        return OK if arguments else MISTAKE
    if arguments[0] in {"-V", "--version"}:
        from diffuscope import __version__

        say(f"diffuscope {__version__}")
        return OK
    name, rest = _split(arguments)
    return _run(name, rest)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """The longest command that the arguments begin with, and what follows it."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    word = arguments[0]
    below = [name for name in COMMANDS if name.startswith(f"{word} ")]
    if below:
        raise DiffuscopeError(f"{word!r} needs a second word: {', '.join(below)}. See `diffuscope --help`")
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise DiffuscopeError(f"no command {word!r}{hint} There are: {', '.join(COMMANDS)}. See `diffuscope --help`")


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    if shutil.get_terminal_size().columns < NARROWEST:  # tyro would never end
        os.environ["COLUMNS"] = str(NARROWEST)
    module, _, function = COMMANDS[name][0].partition(":")
    command: Callable[..., int | None] = getattr(importlib.import_module(module), function)
    if known := getattr(command, "known_flags", None):
        from diffuscope.cli.usage import check_flags

        check_flags(name, known, arguments)
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff)

    @functools.wraps(command)
    def later(*given: Any, **named: Any) -> Callable[[], int | None]:
        return functools.partial(command, *given, **named)

    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            call: Callable[[], int | None] = tyro.cli(later, args=arguments, prog=f"diffuscope {name}", config=config)
        except SystemExit as stop:  # help was asked for, or an argument does not parse
            if not stop.code:
                return OK
            from diffuscope.cli.usage import in_one_sentence

            raise DiffuscopeError(in_one_sentence(name, told.getvalue())) from None
    return call() or OK


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diffuscope COMMAND [OPTIONS]",
            "",
            "Stable Diffusion you can see through.",
            "",
            "commands:",
            *lines,
            "",
            "Begin with: diffuscope generate a red fox",
            "A command's options: diffuscope COMMAND --help",
        ]
    )
