"""A miniature of the published packages: a few hand-written icons in the packages' own file formats."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffuscope.data import packages
from diffuscope.data.colours import dominant_tones
from diffuscope.data.corpus import Corpus, collect
from diffuscope.data.foreground import recolourable as recolourable_of
from diffuscope.data.render import render_all

EMOJIS = [
    ("1F98A", "🦊", "fox", ["animal", "vixen"], 3, 10),
    ("1F34E", "🍎", "red apple", ["apple", "fruit", "cortland"], 4, 11),
    ("1F34F", "🍏", "green apple", ["apple", "fruit", "granny"], 4, 12),
    ("1F436", "🐶", "dog face", ["animal", "puppy"], 3, 13),
    ("1F418", "🐘", "elephant", ["animal", "trunk"], 3, 14),
    ("1F1EB", "🇫🇷", "flag: France", ["FR"], 9, 15),
    ("1F468", "👨‍🦰", "man: red hair", ["man"], 1, 16),
    ("1F338", "🌸", "cherry blossom", ["blossom", "flower"], 3, 17),
    ("1F697", "🚗", "automobile", ["car"], 5, 18),
    ("1F43E", "🐾", "paw prints", ["feet", "paws"], 3, 20),
    ("1F917", "🤗", "smiling face with open hands", ["face", "open hands"], 0, 19),
]
KEYWORDS = {
    "🦊": ["fox", "reynard_fox"],
    "🤗": ["hugging_face", "hug"],
    "🐶": ["dog_face", "woof", "puppy", "animal"],
    "🐾": ["paw_prints", "tracks", "animal", "feet", "puppy"],
}
GROUPS = {
    "0": "smileys-emotion",
    "1": "people-body",
    "2": "component",
    "3": "animals-nature",
    "4": "food-drink",
    "5": "travel-places",
    "9": "flags",
}
SHAPES = {
    "fox": '<path fill="#f60" d="M4 28L16 4l12 24z"/>',
    "red-apple": '<circle cx="16" cy="16" r="12" fill="#d22"/>',
    "green-apple": '<circle cx="16" cy="16" r="12" fill="#3a3"/>',
    "dog-face": '<circle cx="16" cy="16" r="11" fill="#a63"/><circle cx="12" cy="12" r="2"/>',
    "elephant": '<rect x="5" y="8" width="22" height="17" fill="#999"/>',
    "automobile": '<rect x="4" y="12" width="24" height="10" fill="#26c"/>',
}
ICONS = {
    "noto": {
        **SHAPES,
        "flag-france": '<path fill="#fff" d="M3 8h26v16H3z"/><path fill="#00f" d="M3 8h9v16H3z"/>',
        "man-red-hair": '<circle cx="16" cy="16" r="9" fill="#fb6"/>',
        "man-red-hair-light-skin-tone": '<circle cx="16" cy="16" r="9" fill="#fdb"/>',
    },
    "blob": SHAPES,
    "twemoji": {**SHAPES, "flag-for-flag-france": '<rect x="3" y="9" width="26" height="14" fill="#00f"/>'},
    "fluent 3d": {
        **SHAPES,
        "dog-face-light": '<circle cx="16" cy="16" r="11" fill="#eda"/>',
        "hugging-face": '<circle cx="16" cy="16" r="12" fill="#fc2"/>',
    },
    "fluent flat": {**SHAPES, "vixen-twin": SHAPES["fox"]},
    "emojitwo": SHAPES,
    "firefox": {"cherryblossom": '<circle cx="16" cy="16" r="8" fill="#f9c"/>', "aok": SHAPES["fox"]},
    "streamline": {"fox-1": SHAPES["fox"], "fox-2": '<path fill="#e50" d="M4 4h24L16 28z"/>'},
    "line icon": {
        "beer-glass": '<path fill="none" stroke="#000" stroke-width="2" d="M8 4h16v24H8z"/>',
        "acme-logo": "<g/>",
    },
    "freehand": {"file-code-2": '<path fill="none" stroke="#00f" stroke-width="2" d="M6 3h20v26H6z"/>'},
    "game icon": {
        "fox-head": '<path d="M2 28L16 6l14 22z"/>',
        "fox-trap": '<path d="M2 2h28v4H2z"/>',
        "polar-bear": '<path fill="currentColor" d="M2 10h28v14H2z"/>',
        "abstract-014": '<path d="M9 9h9v9z"/>',
    },
}


def write_packages(folder: Path) -> Path:
    """Write the miniature ``node_modules`` into ``folder``."""

    def write(package: str, name: str, value: object) -> None:
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")

    for package, style in packages.STYLES.items():
        about = {"name": "Somebody", "url": "https://example.org/somebody"}
        icons = {key: {"body": body} for key, body in ICONS[style].items()}
        icons["unseen"] = {"body": "<g/>", "hidden": True}
        aliases = {"smiling-face-with-open-hands": {"parent": "hugging-face"}} if style == "fluent 3d" else {}
        write(package, "package.json", {"name": package, "version": packages.VERSIONS[package]})
        write(package, "info.json", {"author": about, "license": {"spdx": "MIT", "url": "https://example.org/mit"}})
        write(package, "metadata.json", {"categories": {"Logos": ["acme-logo"]}})
        write(package, "icons.json", {"icons": icons, "aliases": aliases, "width": 32, "height": 32})
    write("emojibase-data", "package.json", {"version": "17.0.0", "license": "MIT", "author": "Miles"})
    write("emojilib", "package.json", {"version": "4.0.3", "license": "MIT", "author": {"name": "Mu-An"}})
    keys = ("hexcode", "emoji", "label", "tags", "group", "order")
    write("emojibase-data", "en/data.json", [dict(zip(keys, emoji, strict=True)) for emoji in EMOJIS])
    write("emojibase-data", "meta/groups.json", {"groups": GROUPS})
    write("emojilib", "dist/emoji-en-US.json", KEYWORDS)
    return folder


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packages(tmp_path_factory.mktemp("packages") / "node_modules")


@pytest.fixture(scope="session")
def corpus(node_modules: Path) -> Corpus:
    return collect(node_modules)


@pytest.fixture(scope="session")
def make_packages() -> Callable[[Path], Path]:
    return write_packages


@pytest.fixture(scope="session")
def sprites(corpus: Corpus) -> torch.Tensor:
    """[N,4,32,32] uint8."""
    return torch.from_numpy(render_all(corpus, 32, processes=1)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="session")
def tones(sprites: torch.Tensor) -> NDArray[np.float32]:
    return dominant_tones(sprites).numpy()


@pytest.fixture(scope="session")
def recolourable(sprites: torch.Tensor, tones: NDArray[np.float32]) -> NDArray[np.bool_]:
    return recolourable_of(sprites, torch.from_numpy(tones)).numpy()
