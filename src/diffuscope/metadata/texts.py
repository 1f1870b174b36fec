"""The texts in an image file, read without decoding its pixels: PNG chunks, EXIF, and comments of JPEG."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

from diffuscope.errors import ImageError
from diffuscope.images import check_file

TEXT_LIMIT = 1 << 26
"""Characters of all texts of a file, unpacked; a workflow has a million at most."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ImageTexts:
    """A file's header and texts."""

    width: int
    """Upright, as EXIF says."""
    height: int
    texts: dict[str, str]
    """By the chunk's keyword, or as "EXIF UserComment"; of equal keywords the last has it, the others a number."""


def read_texts(source: str | PathLike[str] | bytes) -> ImageTexts:
    """The texts of a PNG, JPEG or WebP file, given as its path or its bytes.

    Raises:
        ImageError: no such file, no whole image file, or longer texts than ``TEXT_LIMIT``.
    """
    path = "the image" if isinstance(source, bytes) else Path(source)
    try:
        if isinstance(source, bytes):
            return _of_file(io.BytesIO(source))
        check_file(source)
        with Path(source).open("rb") as file:
            return _of_file(file)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; give the path of an image") from error
    except ImageError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ImageError(f"{path} cannot be read as an image ({error}); give a whole PNG, JPEG or WebP file") from error


def _of_file(file: BinaryIO) -> ImageTexts:
    return _png(file) if file.read(8) == SIGNATURE else _other(file)


def _png(file: BinaryIO) -> ImageTexts:
    found: list[tuple[str, str]] = []
    size, left, exif = (0, 0), TEXT_LIMIT, None
    for kind, content in _chunks(file):
        if kind == b"IHDR":
            size = struct.unpack(">II", content[:8])
        elif kind == b"eXIf":
            exif = _exif(content)
        else:
            key, text = _TEXTS[kind](content, left)
            left -= len(text)
            found.append((key, text))
    if 0 in size:
        raise ValueError("it has no size")
    texts = _named(found)
    if exif is None:
        return ImageTexts(*size, texts)
    return ImageTexts(*_upright(size, exif), texts | _exif_texts(exif))


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The chunks that say something, each with its checksum; the others are checked and passed over."""
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it ends early")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        is_wanted = kind in _TEXTS or kind in {b"IHDR", b"eXIf"}
        if is_wanted and length > TEXT_LIMIT:
            raise ValueError(f"a text of {length:,} bytes is over the limit")
        checksum, parts = zlib.crc32(kind), []
        for start in range(0, length, _BLOCK):
            block = file.read(min(_BLOCK, length - start))
            if not block:
                raise ValueError("it ends early")
            checksum = zlib.crc32(block, checksum)
            if is_wanted:
                parts.append(block)
        if file.read(4) != checksum.to_bytes(4, "big"):
            raise ValueError("it is damaged: a checksum is wrong")
        if is_wanted:
            yield kind, b"".join(parts)


def _text(content: bytes, left: int) -> tuple[str, str]:
    key, _, text = content.partition(b"\0")
    return _within(key, text, left, "latin-1")


def _packed_text(content: bytes, left: int) -> tuple[str, str]:
    key, _, rest = content.partition(b"\0")
    return _within(key, _unpacked(rest[1:], left), left, "latin-1")


def _unicode_text(content: bytes, left: int) -> tuple[str, str]:
    key, _, rest = content.partition(b"\0")
    _language, _, rest_of_it = rest[2:].partition(b"\0")
    _translated_key, _, text = rest_of_it.partition(b"\0")
    return _within(key, _unpacked(text, left) if rest[:1] == b"\1" else text, left, "utf-8")


_TEXTS = {b"tEXt": _text, b"zTXt": _packed_text, b"iTXt": _unicode_text}


def _unpacked(content: bytes, left: int) -> bytes:
    return zlib.decompressobj().decompress(content, left + 1)


def _within(key: bytes, text: bytes, left: int, encoding: str) -> tuple[str, str]:
    if len(text) > left:
        raise ValueError(f"its texts are longer than {TEXT_LIMIT:,} characters")
    return key.decode("latin-1"), text.decode(encoding, "replace")


def _other(file: BinaryIO) -> ImageTexts:
    """JPEG and WebP: PIL reads their headers when it opens them, and decodes later."""
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, and of a size that is only too large to decode
        image = Image.open(file, formats=("JPEG", "WEBP"))
        exif, found = image.getexif(), []
    with image:
        for key in ("comment", "xmp"):
            value = image.info.get(key)
            if value:
                found.append((key, value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)))
        texts = _exif_texts(exif) | _named(found)
        if sum(map(len, texts.values())) > TEXT_LIMIT:
            raise ValueError(f"its texts are longer than {TEXT_LIMIT:,} characters")
        return ImageTexts(*_upright(image.size, exif), texts)


def _named(found: list[tuple[str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for key, text in found:
        if key in texts:
            number = next(n for n in range(1, len(found) + 1) if f"{key} ({n})" not in texts)
            texts[f"{key} ({number})"] = texts[key]
        texts[key] = text
    return texts


def _exif(content: bytes) -> Image.Exif:
    exif = Image.Exif()
    with suppress(Exception), warnings.catch_warnings():  # ``_exif_texts`` says what is wrong
        warnings.simplefilter("ignore")
        exif.load(content)
    return exif


def _upright(size: tuple[int, int], exif: Image.Exif) -> tuple[int, int]:
    turned = False
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        turned = exif.get(ExifTags.Base.Orientation) in {5, 6, 7, 8}
    return size[::-1] if turned else size


def _exif_texts(exif: Image.Exif) -> dict[str, str]:
    """The texts of EXIF, by their names there; "EXIF" alone says how it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PIL would warn and leave out what follows
            tables = [dict(exif), exif.get_ifd(ExifTags.IFD.Exif)]
    except Exception as error:  # PIL's parser raises whatever a stranger's bytes lead to
        return {"EXIF": f"damaged: {error}"}
    texts = {}
    for tag, value in (item for table in tables for item in table.items()):
        name = str(ExifTags.TAGS.get(tag, f"tag {tag}"))
        if name == "UserComment" and isinstance(value, bytes):
            texts[f"EXIF {name}"] = _user_comment(value)
        elif name.startswith("XP") and isinstance(value, bytes):
            texts[f"EXIF {name}"] = value.decode("utf-16-le", "replace").rstrip("\0")
        elif isinstance(value, str):
            texts[f"EXIF {name}"] = value.rstrip("\0")
    return texts


def _user_comment(content: bytes) -> str:
    """A comment of EXIF: eight bytes name its encoding, and nobody keeps to the byte order for "UNICODE"."""
    code, text = content[:8], content[8:]
    if code == b"UNICODE\0":
        is_big = text[0::2].count(0) > text[1::2].count(0)
        return text.decode("utf-16-be" if is_big else "utf-16-le", "replace").rstrip("\0")
    if code in {b"ASCII\0\0\0", bytes(8)}:
        return text.decode("utf-8", "replace").rstrip("\0")
    return content.decode("utf-8", "replace").rstrip("\0")
