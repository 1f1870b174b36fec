"""Images of strangers, damaged at random: ``info`` describes or refuses each; a receipt is read or refused."""

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffuscope.cli import main
from diffuscope.errors import DiffuscopeError
from diffuscope.images import open_image
from diffuscope.metadata import read_texts
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline import receipt as receipts

COUNT = 300
TEXT = "fox\nNegative prompt: blue\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: a\x1b[2J"
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e400, float("nan"), 10**400, "", "\ud800\x1b[2J", "x" * 5000, [], {}, [[]], {"a": {}}, [1e308],
)  # fmt: skip


def written(folder: Path) -> list[Path]:
    """One file of each format, with texts."""
    chunks = PngInfo()
    chunks.add_text("parameters", TEXT)
    chunks.add_text("zipped", TEXT, zip=True)
    chunks.add_itxt("Title", "狐", "de", "Titel", zip=True)
    exif = Image.Exif()
    exif[0x0110] = 'prompt:{"3": {"class_type": "KSampler", "inputs": {"steps": 3, "latent_image": ["3", 0]}}}'
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + TEXT.encode("utf-16-be")
    picture = Image.effect_noise((24, 16), 50).convert("RGB")
    picture.save(folder / "a.png", pnginfo=chunks, exif=exif)
    picture.save(folder / "a.jpg", exif=exif, comment=TEXT.encode())
    picture.save(folder / "a.webp", exif=exif, lossless=True)
    return [folder / f"a.{suffix}" for suffix in ("png", "jpg", "webp")]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut out, doubled, or put in; of a PNG with checksums that fit again, so that more is reached."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(changed))
        end = min(len(changed), start + chance.choice((1, 1, 2, 4, 50)))
        part = bytes(changed[start:end])
        changed[start:end] = chance.choice(
            (chance.randbytes(len(part)), b"", part * 2, b"\0\0\0\0", b"\xff" * len(part))
        )
        if not changed:
            return b""
    mend = content.startswith(b"\x89PNG") and chance.random() < 0.7
    return with_checksums(bytes(changed)) if mend else bytes(changed)


def with_checksums(png: bytes) -> bytes:
    out, place = [png[:8]], 8
    while place + 12 <= len(png):
        length = min(int.from_bytes(png[place : place + 4], "big"), len(png) - place - 12)
        body = png[place + 4 : place + 8 + length]
        out.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(out)


def test_info_describes_or_refuses_every_damaged_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance, codes = random.Random(1), []
    for path in written(tmp_path):
        content, victim = path.read_bytes(), path.with_stem("victim")
        for _ in range(COUNT // 3):
            victim.write_bytes(damaged(content, chance))
            codes.append(main(["info", str(victim)]))
            said = capsys.readouterr()
            assert "Traceback" not in said.err, said.err
            assert "\x1b" not in said.out + said.err
            assert len(said.err) < 2500
            for read in (open_image, read_texts):
                try:
                    read(victim)
                except DiffuscopeError:
                    continue
    assert set(codes) == {0, 2}
    assert codes.count(0) > COUNT // 20


def test_a_receipt_is_read_whole_or_refused(tiny: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value of it replaced in turn by every odd one, or left out."""
    result = tiny("a fox", seed=1)
    receipt = result.receipt | {"image_index": 0}
    outcomes, longest = {"read": 0, "refused": 0}, 0
    path = tmp_path / "a.png"
    for owner_path in places(receipt):
        for value in (*VALUES, "left out"):
            spoilt = json.loads(json.dumps(receipt))
            *above, last = owner_path
            owner = spoilt
            for key in above:
                owner = owner[key]
            if value == "left out" and isinstance(owner, dict):
                del owner[last]
            else:
                owner[last] = value
            chunks = PngInfo()
            chunks.add_text(receipts.JSON_KEY, json.dumps(spoilt))
            result.images[0].save(path, pnginfo=chunks)
            try:
                found = receipts.read(path)
                outcomes["read"] += 1
                receipts.request_of(found)
                assert isinstance(found["prompt"], list)
            except DiffuscopeError as error:
                outcomes["refused"] += 1
                longest = max(longest, len(str(error)))
    assert longest < 2000
    assert min(outcomes.values()) > 50
    assert main(["info", str(path)]) in {0, 2}
    assert "Traceback" not in capsys.readouterr().err


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document; of lists, of the first entry."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path for key, part in inner for path in ((*above, key), *places(part, (*above, key)))]
