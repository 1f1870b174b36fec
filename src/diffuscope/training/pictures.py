"""A folder of pictures with captions, to train on. What cannot be used is left out, counted and listed."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import Tensor

from diffuscope.errors import ImageError, InputError, Unquoted
from diffuscope.images import fit_to_size, open_image, to_pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHERS = (".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff")
"""Pictures that are not read; they are named, since a folder from a phone may hold nothing else."""

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
        count = len(self.names)
        lines = [f"{count} picture{'s' * (count > 1)}, {len(self.skipped)} skipped"]
        return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in self.skipped.items())])


def read_pictures(
    folder: str | PathLike[str], size: int, *, smallest: int | None = None, caption: str | None = None
) -> Pictures:
    """Every PNG, JPEG and WebP in a folder and those below, or one such file, cut to a square around the middle.

    The caption of ``a.png`` is the text of ``a.txt`` beside it, or its entry in the folder's ``metadata.jsonl``. A
    picture without a caption, with an empty one, in another format, that cannot be read, or that is tiny, is skipped.

    Args:
        folder: of the pictures, or one picture.
        size: height and width of the result.
        smallest: shorter side, in pixels, from which a picture is used; half of ``size`` by default.
        caption: of pictures that have none. One that is empty is still a mistake.

    Raises:
        InputError: nothing is there, or nothing in it can be used.
    """
    given, kinds = Path(folder), (*SUFFIXES, *OTHERS)
    is_file = given.is_file() and given.suffix.lower() in kinds
    if not is_file and not given.is_dir():
        raise InputError("pictures", str(given), f"a folder of pictures, or one picture ({', '.join(SUFFIXES)})")
    paths = [given] if is_file else [path for path in given.rglob("*") if path.suffix.lower() in kinds]
    folder = given.parent if is_file else given
    least = size // 2 if smallest is None else smallest
    known = {_composed(name): text for name, text in _metadata(folder)}
    images, captions, names, skipped = [], [], [], {}
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        try:
            text = _caption(path, known.get(_composed(name), caption))
            images.append(_square(path, size, least))
        except (ImageError, ValueError) as error:
            skipped[name] = str(error)
            continue
        captions.append(text)
        names.append(name)
    if not images:
        raise _unusable(given, skipped)
    return Pictures(to_pixels(images), captions, names, skipped)


def _composed(name: str) -> str:
    """A file's name with each umlaut as one letter: macOS may have it as two."""
    return unicodedata.normalize("NFC", name)


def _unusable(given: Path, skipped: dict[str, str]) -> InputError:
    """Of pictures none of which can be used."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in [*skipped.items()][:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    got = f"{given}, where none can be used ({reasons}{more})" if reasons else f"{given}, where there are none"
    wants_captions = "no caption" in reasons
    hint = "Write the caption of a.png into a.txt beside it, or give one caption for all" if wants_captions else ""
    want = f"pictures ({', '.join(SUFFIXES)})" + " with a caption each" * wants_captions
    return InputError("pictures", Unquoted(got), want, hint)


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
    if path.suffix.lower() in OTHERS:
        raise ValueError("no PNG, JPEG or WebP; convert it")
    image = open_image(path)
    if min(image.size) < least:
        raise ValueError(f"{image.width}x{image.height} pixels, fewer than {least}")
    return fit_to_size(image, size, size)
