"""The corpus file: every picture with its names, built from published packages, the same bytes every time."""

import hashlib
import json
import lzma
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffuscope.data import names, packages
from diffuscope.data.names import Label, Labels
from diffuscope.data.other_names import EVERYDAY, of_icon
from diffuscope.errors import InputError, Unquoted
from diffuscope.output import replacing

LIMIT = 1 << 29
"""Largest corpus accepted, in bytes after decompression."""

_HINT = "Make one with `diffuscope data build`"
_KEYS = frozenset({"style", "name", "tags", "group", "concept", "svg", "also"})
_THING_STYLES = 3  # emoji styles of a thing whose name an icon may have too


@dataclass(frozen=True, slots=True)
class Picture:
    """One vector picture and its names."""

    style: str
    name: str
    tags: tuple[str, ...]
    """By rank."""
    group: str
    """The Unicode group ("animals-nature"), or "icon" for a name of an icon set."""
    concept: str
    """The same in every style: the slug of the name."""
    svg: str
    """A whole SVG document with a square view box."""
    also: tuple[str, ...] = ()
    """Other names of the same thing (``other_names``)."""


@dataclass(frozen=True)
class Corpus:
    """All pictures, sorted by concept, style and picture."""

    pictures: tuple[Picture, ...]

    @classmethod
    def load(cls, path: str | Path) -> "Corpus":
        """Read a file that ``build`` wrote.

        Raises:
            InputError: the file is missing, damaged, too large, or no corpus.
        """
        path, want = Path(path), "a corpus file"
        try:
            with lzma.open(path, "rb") as file:
                text = file.read(LIMIT + 1)
            if len(text) > LIMIT:
                raise InputError("path", Unquoted(f"{path} of more than {LIMIT} bytes unpacked"), want, _HINT)
            rows = [json.loads(line) for line in text.decode().splitlines()]
        except (OSError, lzma.LZMAError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError("path", Unquoted(f"{path} ({error})"), want, _HINT) from error
        if not rows or any(not isinstance(row, dict) or row.keys() != _KEYS for row in rows):
            raise InputError("path", Unquoted(f"{path} without rows {sorted(_KEYS)}"), want, _HINT)
        return cls(tuple(Picture(**{**row, "tags": tuple(row["tags"]), "also": tuple(row["also"])}) for row in rows))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the uncompressed rows, in hexadecimal."""
        return hashlib.sha256(_lines(self.pictures)).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the compressed file whole, or not at all; OutputError if it cannot be written."""
        with replacing(path) as part:
            part.write_bytes(lzma.compress(_lines(self.pictures), preset=1))


def _lines(pictures: tuple[Picture, ...]) -> bytes:
    return "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in pictures).encode()


def build(folder: str | Path | None, out: str | Path) -> Corpus:
    """Build the corpus and write it to ``out``, as JSON lines in xz.

    Args:
        folder: a ``node_modules`` folder with the packages; None downloads them with the npm client.
        out: the file to write.

    Raises:
        InputError: a package is missing, or not under a permissive licence.
        OutputError: the download failed, or the file cannot be written.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return build(packages.download(Path(temporary)), out)
    corpus = collect(Path(folder))
    corpus.save(out)
    return corpus


def collect(folder: Path) -> Corpus:
    """The corpus of a ``node_modules`` folder with all packages of ``packages.VERSIONS``."""
    for package in packages.VERSIONS:
        packages.check_licence(folder, package)
    labels = names.read_labels(
        packages.read_json(folder, "emojibase-data", "en/data.json"),
        packages.read_json(folder, "emojilib", "dist/emoji-en-US.json"),
        packages.read_json(folder, "emojibase-data", "meta/groups.json")["groups"],
    )
    pictures: list[Picture] = []
    for package, style in packages.STYLES.items():
        icons = packages.read_json(folder, package, "icons.json")
        categories = packages.read_json(folder, package, "metadata.json").get("categories", {})
        pictures += _without_repeats(_pictures(style, icons, set(categories.get("Logos", ())), labels))
    return Corpus(tuple(sorted(_with_other_names(pictures), key=lambda p: (p.concept, p.style, p.svg))))


def _with_other_names(pictures: list[Picture]) -> Iterator[Picture]:
    """The pictures, icons with the thing that they show, and no other name that is a name of another picture."""
    styles: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        if picture.group in EVERYDAY and picture.style in packages.EMOJI_STYLES:
            styles[picture.name].add(picture.style)
    things = frozenset(name for name, own in styles.items() if len(own) >= _THING_STYLES)
    names_of_all = {picture.name.lower() for picture in pictures}
    for picture in pictures:
        if picture.group == "icon":
            thing = of_icon(picture.name, things)
            yield replace(picture, also=() if thing is None else (thing,))
        else:
            yield replace(picture, also=tuple(word for word in picture.also if word not in names_of_all))


def _pictures(style: str, icons: dict[str, Any], logos: set[str], labels: Labels) -> list[tuple[int, Picture]]:
    """(Unicode order, picture) of each icon that is not hidden, no logo, no skin-tone variant, and has a name."""
    aliases: dict[str, list[str]] = {}
    for alias, of in icons.get("aliases", {}).items():
        if "hFlip" not in of and "vFlip" not in of and "rotate" not in of:
            aliases.setdefault(of["parent"], []).append(alias)
    pictures = []
    for key, icon in icons["icons"].items():
        emoji = style in packages.EMOJI_STYLES
        if icon.get("hidden") or key in logos or (emoji and names.has_skin_tone(key, icons["icons"])):
            continue
        label = _label(style, key, aliases.get(key, []), labels)
        if label is not None:
            svg = square_svg(icon, icons)
            concept = names.slug(label.name)
            picture = Picture(style, label.name, label.tags, label.group, concept, svg, label.also)
            pictures.append((label.order, picture))
    return pictures


def _label(style: str, key: str, aliases: list[str], labels: Labels) -> Label | None:
    if style == "firefox":
        return labels.find_run_together(key)
    stem = re.sub(r"-0\d\d$|^(abstract)-\d+$", r"\1", key) if style == "game icon" else re.sub(r"-\d+$", "", key)
    if style in packages.EMOJI_STYLES:
        label = labels.find(key, aliases) or labels.find(stem)
        return label or Label(stem.replace("-", " "), (), "symbols", 1 << 20)
    exact = labels.find(stem)
    if exact is not None and names.slug(exact.name) == stem:
        return exact
    return Label(stem.replace("-", " "), (), "icon", 1 << 20)


def square_svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    """One icon of an iconify file as an SVG document, centred in a square view box."""
    left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{icon["body"]}</svg>'
    )


def _without_repeats(pictures: list[tuple[int, Picture]]) -> list[Picture]:
    """Each drawing once: the first in Unicode order, with the names of the others as tags."""
    first: dict[str, Picture] = {}
    for _, picture in sorted(pictures, key=lambda pair: (pair[0], pair[1].name, pair[1].svg)):
        drawing = _drawing(picture.svg)
        same = first.get(drawing)
        if same is None:
            first[drawing] = picture
        elif same.name != picture.name:
            first[drawing] = replace(same, tags=names.clean_tags(same.name, [*same.tags, picture.name, *picture.tags]))
    return list(first.values())


def _drawing(svg: str) -> str:
    """The SVG text with its identifiers numbered, so that equal drawings are equal."""
    for number, name in enumerate(re.findall(r'id="([^"]+)"', svg)):
        svg = svg.replace(f'"{name}"', f'"{number}"').replace(f"#{name}", f"#{number}")
    return svg
