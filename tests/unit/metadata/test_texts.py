"""Texts of image files: without the pixels, within limits, and from whole files alone."""

import os
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffuscope.errors import ImageError
from diffuscope.images import open_image, write_png
from diffuscope.metadata import read_texts
from diffuscope.metadata.texts import SIGNATURE, TEXT_LIMIT


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


def test_every_kind_of_chunk_before_and_after_the_pixels(tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("plain", "é")
    chunks.add_text("packed", "x" * 1000, zip=True)
    chunks.add_itxt("unicode", "狐", "de", "Fuchs")
    chunks.add_itxt("packed unicode", "狐" * 1000, zip=True)
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2)).save(path, pnginfo=chunks)
    late = chunk(b"tEXt", b"late\0text") + chunk(b"tEXt", b"late\0again")
    path.write_bytes(path.read_bytes().replace(chunk(b"IEND"), late + chunk(b"IEND")))
    found = read_texts(path)
    assert (found.width, found.height) == (3, 2)
    with Image.open(path) as image:
        image.load()
        assert found.texts == {**image.info, "late (1)": "text", "late": "again"}
    assert found.texts["packed unicode"] == "狐" * 1000


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    """Of 8192x8192 pixels of 16 bits, which take gigabytes, and of more than are ever decoded."""
    for side in (8192, 2**31 - 1):
        path = tmp_path / f"{side}.png"
        path.write_bytes(
            header(side, side, 16, 0) + chunk(b"IDAT", b"?" * 99) + chunk(b"tEXt", b"a\0b") + chunk(b"IEND")
        )
        assert read_texts(path).texts == {"a": "b"}


def test_a_truncated_or_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = write_png(tmp_path / "a.png", Image.effect_noise((8, 8), 50).convert("RGB"), {"a": "b"}).read_bytes()
    path = tmp_path / "b.png"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_texts(path)
    chance = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ImageError):
            read_texts(path)


def test_packed_texts_are_bounded(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(TEXT_LIMIT + 1), 9)
    path = tmp_path / "a.png"
    for content in (chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)):
        path.write_bytes(header(1, 1) + content + chunk(b"IEND"))
        with pytest.raises(ImageError, match="longer than"):
            read_texts(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (("pipe.png", "no regular file"), (".", "folder"), ("gone.png", "no such file")):
        for read in (read_texts, open_image):
            with pytest.raises(ImageError, match=why):
                read(tmp_path / name)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0131] = "a program"
    path = tmp_path / "turned"
    Image.new("RGB", (32, 16)).save(path, format=format, exif=exif)
    found = read_texts(path)
    assert (found.width, found.height) == open_image(path).size == (16, 32)
    assert found.texts == {"EXIF Software": "a program"}
