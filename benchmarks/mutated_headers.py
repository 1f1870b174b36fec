"""Read damaged safetensors headers, as many as asked for: each is read or refused, at once and in bounded memory.

python benchmarks/mutated_headers.py --count 100000
"""

import argparse
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from diffuscope.errors import WeightsError
from diffuscope.weights.identify.families import identify
from diffuscope.weights.store.headers import read_header

SLACK = 64 << 20
"""Bytes of memory that reading may take beyond the file's size."""

SECONDS = 1.0
"""The longest that one file may take."""

NUMBERS = (b"0", b"-1", b"1e309", b"NaN", b"true", b"null", b"[]", b"{}", b'""', b"9" * 40, b"18446744073709551615")


def seeds() -> list[bytes]:
    """Sound files to begin with: tensors of several kinds, names of several layouts, metadata."""
    files = []
    for names in (
        ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight", "alphas"),
        ("lora_unet_x_attn2_to_k.lora_down.weight", "lora_unet_x_attn2_to_k.lora_up.weight", "lora_unet_x.alpha"),
        ("conv_in.weight", "mid_block.resnets.0.conv1.weight", "mid_block.attentions.0.proj_in.weight"),
        ("emb_params",),
    ):
        table: dict[str, object] = {"__metadata__": {"format": "pt", "modelspec.prediction_type": "v"}}
        position = 0
        for i, name in enumerate(names):
            shape = [[2, 3, 1, 1], [4, 3], [7], []][i % 4]
            size = 4
            for side in shape:
                size *= side
            table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, position + size]}
            position += size
        text = json.dumps(table, separators=(",", ":")).encode()
        files.append(struct.pack("<Q", len(text)) + text + bytes(position))
    return files


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """``count`` files, each a sound one with one to four things done to it; the same for the same seed."""
    draw, sound = random.Random(seed), seeds()
    for _ in range(count):
        data = bytearray(draw.choice(sound))
        for _ in range(draw.randint(1, 4)):
            mutate(draw, data)
        if draw.random() < 0.7:  # most with a length that is right, or nothing behind it would be read
            end = data.rfind(b"}", 8) + 1
            data[:8] = struct.pack("<Q", max(end - 8, 0))
        yield bytes(data)


def mutate(draw: random.Random, data: bytearray) -> None:
    """Do one thing to ``data``, in place."""
    if len(data) < 16:
        data += draw.randbytes(16)
    end = max(data.rfind(b"}"), 9)
    here, there = sorted((draw.randrange(len(data)), draw.randrange(8, end)))
    digits = [i for i in range(8, end) if 48 <= data[i] <= 57]
    kind = draw.randrange(9)
    if kind == 0:
        data[here] ^= 1 << draw.randrange(8)
    elif kind == 1 and digits:
        data[draw.choice(digits)] = draw.randrange(48, 58)
    elif kind == 2 and digits:
        place = draw.choice(digits)
        data[place : place + 1] = draw.choice(NUMBERS)
    elif kind == 3:
        del data[here:there]
    elif kind == 4:
        data[here:here] = data[here:there]
    elif kind == 5:
        data[draw.randrange(8)] = draw.randrange(256)
    elif kind == 6:
        del data[draw.randrange(len(data)) :]
    elif kind == 7:
        data[here:here] = draw.choice((b"[", b"{", b'"', b"\\u0000", b"\xff", b"\xed\xa0\x80")) * draw.randint(1, 2000)
    else:
        data += draw.randbytes(draw.randrange(64))


def run(seed: int, count: int, path: Path) -> Counter[str]:
    """Read ``count`` damaged files; how many were sound, and how many refused.

    Raises:
        AssertionError: one was neither, took too long or too much memory.
    """
    outcomes = Counter[str]()
    size, before = 0, memory()
    with path.open("wb") as file:  # one file for all: file systems flush a file that is cut to nothing and written anew
        for i, data in enumerate(mutations(seed, count)):
            file.seek(0)
            file.write(data)
            file.truncate()
            file.flush()
            size = max(size, len(data))
            start = time.perf_counter()
            try:
                identify(read_header(path))
                outcomes["read"] += 1
            except WeightsError as error:
                if str(path) not in str(error):
                    raise AssertionError(f"file {i} of seed {seed}: the error does not name it: {error}") from error
                outcomes["refused"] += 1
            outcomes["slow"] += time.perf_counter() - start > SECONDS
    grown = memory() - before
    if grown > size + SLACK:
        raise AssertionError(f"memory grew by {grown} bytes over files of at most {size}")
    return outcomes


def memory() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        outcomes = run(asked.seed, asked.count, Path(folder) / "model.safetensors")
    print(f"{asked.count:,} headers in {time.perf_counter() - start:.1f} s: {dict(outcomes)}; no crash")
    if outcomes["slow"]:
        raise SystemExit(f"{outcomes['slow']} took longer than {SECONDS} s")


if __name__ == "__main__":
    main()
