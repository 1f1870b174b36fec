"""A folder of pictures with captions, to train on. What cannot be used is left out, counted and listed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import Tensor

from diffuscope.errors import ImageError, InputError, Unquoted
from diffuscope.images import fit_to_size, open_image, to_pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CAPTIONS = ".txt"
METADATA = "metadata.jsonl"
"""Captions of a whole folder, as Hugging Face's `imagefolder` has them: lines with `file_name` and `text`."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder that can be used, and why the others cannot."""

    images: Tensor
    """[N,3,size,size] in [-1,1]."""
    captions: list[str]
    names: list[str]
    """Paths in the folder."""
    skipped: dict[str, str]
    """Path in the folder -> reason."""

    def __str__(self) -> str:
        lines = [f"{len(self.names)} pictures, {len(self.skipped)} skipped"]
        return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in self.skipped.items())])


def read_pictures(
    folder: str | PathLike[str], size: int, *, smallest: int | None = None, caption: str | None = None
) -> Pictures:
    """Every PNG, JPEG and WebP in a folder and those below, or one such file, cut to a square around the middle.

    The caption of ``a.png`` is the text of ``a.txt`` beside it, or its entry in the folder's ``metadata.jsonl``. A
    picture without a caption, with an empty one, that cannot be read, or that is tiny, is skipped.

    Args:
        folder: of the pictures, or one picture.
        size: height and width of the result.
        smallest: shorter side, in pixels, from which a picture is used; half of ``size`` by default.
        caption: of pictures that have none. One that is empty is still a mistake.

    Raises:
        InputError: nothing is there, or nothing in it can be used.
    """
    folder = Path(folder)
    is_file = folder.is_file() and folder.suffix.lower() in SUFFIXES
    if not is_file and not folder.is_dir():
        raise InputError("pictures", str(folder), f"a folder of pictures, or one picture ({', '.join(SUFFIXES)})")
    paths = [folder] if is_file else [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    folder = folder.parent if is_file else folder
    least = size // 2 if smallest is None else smallest
    known = dict(_metadata(folder))
    images, captions, names, skipped = [], [], [], {}
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        try:
            text = _caption(path, known.get(name, caption))
            images.append(_square(path, size, least))
        except (ImageError, ValueError) as error:
            skipped[name] = str(error)
            continue
        captions.append(text)
        names.append(name)
    if not images:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in [*skipped.items()][:3])
        got = Unquoted(
            f"{folder}, where none can be used ({reasons})" if reasons else f"{folder}, where there are none"
        )
        hint = "Write a.txt beside a.png, or give one caption for all" if "no caption" in reasons else ""
        raise InputError("pictures", got, f"pictures ({', '.join(SUFFIXES)}) with a caption each", hint)
    return Pictures(to_pixels(images), captions, names, skipped)


def _metadata(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / METADATA
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        try:
            entry = json.loads(line)
            yield str(entry["file_name"]), str(entry["text"])
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.strip():
                got = Unquoted(f"{path}, whose line {number} has none")
                raise InputError("pictures", got, "lines of JSON with file_name and text") from None


def _caption(path: Path, known: str | None) -> str:
    beside = path.with_suffix(CAPTIONS)
    if beside.is_file():
        try:
            known = beside.read_text(encoding="utf-8-sig")  # Windows begins some with a mark
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"its caption cannot be read ({error})") from error
    if known is None:
        raise ValueError("no caption")
    if not known.strip():
        raise ValueError("an empty caption")
    return " ".join(known.split())


def _square(path: Path, size: int, least: int) -> Image.Image:
    image = open_image(path)
    if min(image.size) < least:
        raise ValueError(f"{image.width}x{image.height} pixels, fewer than {least}")
    return fit_to_size(image, size, size)
