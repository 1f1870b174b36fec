"""Write the generated pages of the reference: public names, modules, samplers, tap names, command line."""

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch

import diffuscope
from diffuscope.cli import COMMANDS, main
from diffuscope.config import EMOJI
from diffuscope.diffusion.samplers import TABLE, network_calls
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.nn.taps import tap_points

BESIDES = ("cli", "__main__")
"""Not in the reference as modules: the command line has a page of its own."""

PUBLIC = {
    "Open a model and make images": ["Pipeline", "load", "Run", "Step", "Result"],
    "The options of a call": [
        "Request",
        "GuidanceOptions",
        "Thresholding",
        "Branch",
        "Latents",
        "ModelSource",
        "samplers",
    ],
    "Repeat an image": ["replay", "Replay"],
    "See inside": ["tap_points", "Tap", "Tokenizer"],
    "What the parts share": [],
}
"""The page of public names: heading -> names, the most used first; the last section has all others."""


def repository() -> str | None:
    """The web address of the repository that these pages were cloned from, if it has one."""
    command = ["git", "config", "--get", "remote.origin.url"]
    told = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    found = re.fullmatch(
        r"(?:https://|ssh://git@|git@)([\w.-]+\.\w+)[:/](.+?)(?:\.git)?/?",
        told.stdout.strip(),
    )
    return f"https://{found[1]}/{found[2]}" if found else None


def write(folder: Path) -> None:
    """Write every generated page into ``folder``, and nothing where nothing changed."""
    pages = {
        "public": public(),
        "samplers": samplers(),
        "taps": taps(),
        "command-line": command_line(),
    }
    here = [
        module
        for module in pkgutil.iter_modules(diffuscope.__path__)
        if module.name not in BESIDES
    ]
    pages["api-shared"] = modules(
        "Shared modules", [f"diffuscope.{part.name}" for part in here if not part.ispkg]
    )
    for part in (module.name for module in here if module.ispkg):
        pages[f"api-{part}"] = modules(
            f"diffuscope.{part}", list(below(f"diffuscope.{part}"))
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def below(name: str) -> Iterator[str]:
    """The package and its modules, by name."""
    package = importlib.import_module(name)
    yield name
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        yield module.name


def public() -> str:
    """All that ``import diffuscope as ds`` offers."""
    named = {name for names in PUBLIC.values() for name in names}
    rest = [name for name in diffuscope.__all__ if name not in named and name[0] != "_"]
    lines = [
        "# Public names",
        "",
        "All that `import diffuscope as ds` offers. Each name is fetched when it is first used, so that the import",
        "loads no torch.",
        "",
    ]
    packages = []
    for title, names in PUBLIC.items():
        lines += [f"## {title}", ""]
        for name in names or rest:
            value = getattr(diffuscope, name)
            if inspect.ismodule(value):
                packages.append(name)
                continue
            kind = (
                "class"
                if inspect.isclass(value)
                else "function"
                if inspect.isfunction(value)
                else "data"
            )
            special = ["   :special-members: __call__"] * (name == "Pipeline")
            directive = f".. auto{kind}:: diffuscope.{name}"
            lines += [
                f"### ds.{name}",
                "",
                "```{eval-rst}",
                directive,
                *special,
                "```",
                "",
            ]
    listed = ", ".join(
        f"[`ds.{name}`](api-{name}.md)"
        for name in packages
        if name not in ("errors", "images")
    )
    shared = "[`ds.errors` and `ds.images`](api-shared.md)"
    return "\n".join([*lines, "## Packages", "", f"{listed}, and {shared}.", ""])


def modules(title: str, names: list[str]) -> str:
    blocks = [
        f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names
    ]
    return f"# {title}\n\n" + "\n".join(blocks)


def samplers() -> str:
    lines = [
        "# Samplers",
        "",
        "A sampler is found by any of its names; case, spaces and punctuation do not matter, and a name may end in a",
        'spacing ("DPM++ 2M Karras"). Orders are measured on a Gaussian in `tests/contract`, without fresh noise;',
        "[parity of the samplers](../parity-samplers.md) has the differences to their references.",
        "",
        "| name | label | order | network calls per step | noise | ends at | other names |",
        "|---|---|---|---|---|---|---|",
    ]
    for info in TABLE.values():
        aliases = ", ".join(info.aliases)
        more = max(network_calls(info.function, range(16, 0, -1)))
        calls = (
            f"{info.calls}, more in some steps"
            if more > info.calls
            else str(info.calls)
        )
        end = {
            "config": "as in the model's config",
            "sigma_min": "lowest trained level",
        }.get(info.final_sigma, "zero")
        lines.append(
            f"| `{info.name}` | {info.label} | {info.order} | {calls} | {info.noise} | {end} | {aliases} |"
        )
    return "\n".join(lines) + "\n"


def taps() -> str:
    networks = {"text_encoder": TextEncoder, "unet": UNet, "vae": VAE}
    lines = [
        "# Tap names of the `emoji` model",
        "",
        "`ds.tap_points(pipe.unet)` lists those of any model.",
        "",
    ]
    for part, network in networks.items():
        with torch.device("meta"):
            names = tap_points(network(getattr(EMOJI, part)))
        lines += [
            f"## {part}: {len(names)} activations",
            "",
            "```text",
            *names,
            "```",
            "",
        ]
    return "\n".join(lines)


def wrapped(line: str) -> str:
    """A line of prose in lines of 80 columns; a line within a box is one already."""
    return line if len(line) <= 80 or line[0] in "╭│╰" else textwrap.fill(line, 80)


def command_line() -> str:
    lines = ["# Command line", ""]
    for command in ("", *COMMANDS):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main([*command.split(), "--help"])
        pages = "\n".join(map(wrapped, said.getvalue().rstrip().splitlines()))
        title = f"diffuscope {command}".strip()
        lines += [f"## {title}", "", "```text", pages, "```", ""]
    return "\n".join(lines)
