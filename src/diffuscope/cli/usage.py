"""Mistakes of a command line: a flag that other programs have, a file where a prompt belongs. Each has its answer."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from diffuscope.errors import DiffuscopeError, InputError, Unquoted, nearest
from diffuscope.model_source import DTYPE_ALIASES

COUNTERPARTS = {
    "--height INT": "H",
    "--width INT": "W",
    "--sampler TEXT": "a sampling-method scheduler",
    "--dtype float16": "autocast fp16 half",
    "--count INT": "b n n-iter n-samples num-images num-images-per-prompt",
    "--guidance-scale FLOAT": "cfg cfg-scale guidance scale",
    "--model PATH": "checkpoint ckpt m",
    "--device cpu": "cpu",
    "--device cuda": "cuda gpu",
    "--steps INT": "ddim-steps num-inference-steps sampling-steps",
    "--strength FLOAT": "denoise denoising-strength",
    "--sampler-options eta=FLOAT": "eta",
    "--dtype float32": "full-precision no-half",
    "--film PATH": "gif video",
    "--image PATH": "i init init-image init-img input",
    "--negative-prompt TEXT": "neg negative",
    "--out PATH": "outdir output",
    "the prompt itself, without a flag": "p prompt",
    "--sampler pndm": "plms",
    "--dtype TEXT": "precision type",
    "--seed INT or --steps INT": "s",
    "--sigmas TEXT": "schedule",
    "OMP_NUM_THREADS=INT before the command": "threads",
}
"""What to write here -> flags of other programs, and options in Python. Capitals stand for the value."""

TRAINING = {
    "--alpha FLOAT": "network-alpha",
    "--batch-size INT": "train-batch-size",
    "--caption TEXT": "instance-prompt prompt",
    "--like TEXT": "initializer-token",
    "--lr FLOAT": "learning-rate",
    "--out PATH": "output-dir output-name",
    "the folder itself, without a flag": "instance-data-dir train-data-dir",
    "--prior TEXT": "class-prompt",
    "--prior-count INT": "num-class-images",
    "--rank INT": "network-dim",
    "--size INT": "resolution",
    "--steps INT": "epochs max-train-steps num-train-epochs seconds train-steps",
    "--word TEXT": "placeholder-token",
}
"""The same for the commands that teach a model one thing."""

ELSEWHERE = {flag: write for write, flags in COUNTERPARTS.items() for flag in flags.split()}
"""Flag of another program -> what to write here."""

TRAINING_FLAGS = ELSEWHERE | {flag: write for write, flags in TRAINING.items() for flag in flags.split()}

FILES = {".png", ".jpg", ".jpeg", ".webp", ".safetensors", ".ckpt", ".pt"}


def check_flags(command: str, known: Collection[str], arguments: Sequence[str]) -> None:
    """DiffuscopeError for the first argument that looks like a flag and is none of ``known``; says what to write."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return
        dashes, name, given = re.fullmatch(r"(-*)([^=]*)=?(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
        name = name.replace("_", "-")
        if not re.fullmatch(r"-[A-Za-z]|--\w[\w-]*", dashes + name) or dashes + name in known:
            continue
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        write = _written(name, given or ("" if following.startswith("-") else following), known)
        hint = f"write {write}" if write else nearest(f"--{name}", known).replace("Did you mean", "did you mean")
        hint = hint or f"`diffuscope {command} --help` lists the flags"
        raise DiffuscopeError(f"{command} has no flag {dashes}{name}; {hint}")


def _written(name: str, value: str, known: Collection[str]) -> str:
    """What to write instead of ``--name value`` where these flags are known; "" if nothing is."""
    if name in ("size", "resolution") and "--width" in known:
        width, height = (re.findall(r"\d+", value) * 2)[:2] or ("512", "512")
        return f"--width {width} --height {height}"
    if name in ("lora", "loras") and "--lora-dir" in known:
        path = Path(value or "FOLDER/NAME")
        return f"<lora:{path.stem}:0.8> in the prompt, and --lora-dir {path.parent}"
    table = TRAINING_FLAGS if "--lr" in known else ELSEWHERE
    if table.get(name) == "--dtype TEXT":
        value = DTYPE_ALIASES.get(value.lower(), value)
    write = table.get(name, "")
    if not {*re.findall(r"--[\w-]+", write)} <= {*known}:
        return ""
    return re.sub(r"\b[A-Z]{3,5}\b(?!_)", lambda found: value or found[0], write)


def prompt_of(command: str, words: Sequence[str]) -> str:
    """The prompt from the words of the command line, which need no quotes.

    Raises:
        InputError: there are none, or the only one is the name of a file.
    """
    if not words:
        example = f"diffuscope {command} a red fox"
        raise InputError("prompt", Unquoted("none"), "a text behind the command", f"For example: {example}")
    (file, *others) = words
    if not others and Path(file).suffix.lower() in FILES:
        hint = f"See what the file is with `diffuscope info {file}`, or start from an image with --image {file}"
        raise InputError("prompt", file, "a text, not the name of a file", hint)
    return " ".join(words)


def in_one_sentence(command: str, box: str) -> str:
    """What tyro found wrong with the arguments of a command, from the box that it prints."""
    body = re.sub(r"\A\s*(╭.*|.*\n -{4}.*)\n", "", box)  # the title; there are no frames without UTF-8
    lines = [line[1:].rstrip("│ ") for line in body.splitlines()]
    head = lines[: next((at for at, line in enumerate(lines) if re.search(r"[─-]{4}", line)), len(lines))]
    text, given = " ".join(map(str.strip, head)), re.findall(r"^ {5}(\S.*)", "\n".join(lines), re.MULTILINE)
    if text.startswith("Missing from"):
        missing = re.findall(r"^ {5}(\S.*)", "\n".join(head), re.MULTILINE)
        text = f"{command} needs {', '.join(missing)}"
    elif text.startswith("Unrecognized"):
        text = f"{command} does not take {text.partition(':')[2].strip()}"
    elif value := re.match(r"Error parsing (\S+): .* from (\[.*?\])", text):
        wanted = next((line.removeprefix(value[1]).strip() for line in given if line.startswith(value[1])), "another")
        text = f"{value[1]}: got {value[2].strip('[]')}, expected {wanted}"
    elif value := re.match(r"Missing value for argument '(\S+)'", text):
        text = f"{value[1]} needs a value"
    elif value := re.match(r"invalid choice (.*) for argument '(\S+)'\. Expected one of \((.*)\)\.", text):
        text = f"{value[2]}: got {value[1]}, expected one of {value[3]}"
        from diffuscope.cli import COMMANDS  # which imports this

        names = {each: each for each in re.findall(r"'([\w-]+)'", value[3])}
        names |= {name.removeprefix(f"{command} "): name for name in COMMANDS if name.startswith(f"{command} ")}
        if hint := nearest(value[1][1:-1], names):  # train words -> train word
            text += ". " + re.sub(r"'(.+)'", lambda found: repr(names[found[1]]), hint)
            return f"{text} See `diffuscope {command} --help`"
    return f"{text}. See `diffuscope {command} --help`"
