"""Packing: bounded error, exact shapes, and refusal of what does not fit."""

import json

import pytest
import torch

from diffuscope.errors import WeightMismatchError, WeightsError
from diffuscope.weights.store import headers, packing
from refusals import refused


def tensors():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    matrix = draw(64, 80) * torch.logspace(-6, 3, 64)[:, None]
    matrix[5] = 0
    return {
        "matrix.weight": matrix,
        "conv.weight": draw(32, 16, 3, 3),
        "token.weight": draw(200, 32) * 0.02,
        "small.weight": draw(4, 4),
        "norm.bias": draw(7),
        "huge.bias": torch.tensor([1e6, 1.0]),
    }


SEEN = {"token.weight": torch.tensor([199, 3, 3, 17])}


def test_no_number_moves_by_more_than_half_its_rows_scale():
    given = tensors()
    found = packing.unpack(*packing.pack(given))
    assert list(found) == list(given)
    for name in ("matrix.weight", "conv.weight", "token.weight"):
        step = given[name].flatten(1).abs().amax(1) / 127
        error = (found[name] - given[name]).flatten(1).abs().amax(1)
        assert (error <= step * 0.5001).all()
        assert found[name].dtype == torch.float32
        relative = (found[name] - given[name]).norm() / given[name].norm()
        assert relative < 0.01
    for name in ("small.weight", "norm.bias"):
        torch.testing.assert_close(found[name], given[name], rtol=2**-11, atol=1e-7)
    assert torch.equal(found["huge.bias"], given["huge.bias"])
    assert (found["matrix.weight"][5] == 0).all()


def test_packing_what_was_unpacked_changes_nothing():
    once = packing.unpack(*packing.pack(tensors(), seen=SEEN))
    again = packing.unpack(*packing.pack(once, seen=SEEN))
    for name in once:
        torch.testing.assert_close(again[name], once[name], rtol=1e-6, atol=0)


def test_rows_never_seen_need_no_space_and_come_back_as_zero():
    given = tensors()
    packed, metadata = packing.pack(given, seen=SEEN)
    assert packed["token.weight"].shape == (3, 32)
    assert packed["token.weight::rows"].tolist() == [3, 17, 199]
    found = packing.unpack(packed, metadata)["token.weight"]
    assert found.shape == (200, 32)
    kept = [3, 17, 199]
    assert (found[kept] - given["token.weight"][kept]).abs().max() < 0.02 * 5 / 127
    found[kept] = 0
    assert found.abs().max() == 0


def test_the_big_ones_take_a_quarter():
    given = {"a": torch.randn(512, 512)}
    size = sum(t.nbytes for t in packing.pack(given)[0].values())
    assert size < 0.26 * given["a"].nbytes


def test_file_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    packing.write(path, tensors(), seen=SEEN)
    expected = packing.unpack(*packing.pack(tensors(), seen=SEEN))
    found = packing.read(path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert packing.is_packed(headers.read_header(path))


def test_input_is_not_modified():
    given = tensors()
    kept = {name: tensor.clone() for name, tensor in given.items()}
    packing.pack(given, seen=SEEN)
    assert all(torch.equal(given[name], kept[name]) for name in given)


@pytest.mark.parametrize(
    ("given", "seen", "argument"),
    [
        ({"a": torch.tensor([float("nan")])}, {}, "tensors"),
        ({"a": torch.ones(3, dtype=torch.int64)}, {}, "tensors"),
        ({"a": torch.ones(3, 2)}, {"b": torch.tensor([0])}, "seen"),
        ({"a": torch.ones(3, 2)}, {"a": torch.tensor([3])}, "seen"),
        ({"a": torch.ones(3, 2)}, {"a": torch.tensor([-1])}, "seen"),
    ],
)
def test_what_cannot_be_packed_is_an_error(given, seen, argument):
    with refused(argument):
        packing.pack(given, seen=seen)


def change_table(metadata, **fields):
    table = json.loads(metadata["packing"])
    table["token.weight"] |= fields
    metadata["packing"] = json.dumps(table)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda p, _: p.pop("conv.weight"), WeightMismatchError),
        (lambda p, _: p.pop("conv.weight::scale"), WeightMismatchError),
        (lambda p, _: p.update(other=torch.ones(1)), WeightMismatchError),
        (lambda p, _: p.update({"conv.weight": p["conv.weight"].float()}), WeightMismatchError),
        (lambda p, _: p.update({"conv.weight::scale": torch.ones(31)}), WeightMismatchError),
        (lambda p, _: p.update({"conv.weight::scale": torch.full((32,), float("inf"))}), WeightMismatchError),
        (lambda p, _: p["token.weight::rows"].fill_(200), WeightMismatchError),
        (lambda _, m: change_table(m, shape=[200, 31]), WeightMismatchError),
        (lambda _, m: change_table(m, shape="wide"), WeightsError),
        (lambda _, m: change_table(m, shape=[1 << 40, 32]), WeightsError),
        (lambda _, m: change_table(m, shape=[-1, 32]), WeightsError),
        (lambda _, m: change_table(m, shape=[]), WeightsError),
        (lambda _, m: change_table(m, shape=[float("inf")]), WeightsError),
        (lambda _, m: m.update(packing="[" * 100_000), WeightsError),
        (lambda _, m: m.pop("packing"), WeightsError),
        (lambda _, m: m.update(packing="[]"), WeightsError),
        (lambda _, m: m.update(format="other"), WeightsError),
        (lambda _, m: m.clear(), WeightsError),
    ],
)
def test_a_damaged_packed_file_is_an_error(damage, error):
    packed, metadata = packing.pack(tensors(), seen=SEEN)
    damage(packed, metadata)
    with pytest.raises(error, match="packed"):
        packing.unpack(packed, metadata)


def table(**entry: object) -> dict[str, object]:
    return {"shape": [4, 4], "int8": False, "rows": True} | entry


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({f"t{i}": table(shape=[1 << 20, 1 << 8]) for i in range(64)}, "would have 17179869184 values"),
        ({"t": table(shape=[1 << 62] * 300_000)}, "does not describe how 't'"),
        ({"t": table(shape=["9" * 4000] * 1000)}, "does not describe how 't'"),
        ({"t": table(shape=[1 << 62] * 16)}, "values"),
        ({"t": table(shape=[])}, "does not describe how 't'"),
        ({"t": table(shape=[-1, 4])}, "does not describe how 't'"),
        ({"t": table(shape=[True, 4])}, "does not describe how 't'"),
        ({"t": table(rows=1)}, "does not describe how 't'"),
        ({"t": table(more=1)}, "does not describe how 't'"),
        ({"t" * 10**6: 3}, "does not describe how 'ttt"),
    ],
)
def test_metadata_ask_for_no_memory_that_the_file_does_not_have(entries: dict[str, object], words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        packing.unpack({}, {"format": packing.FORMAT, "packing": json.dumps(entries)})
    assert len(str(caught.value)) < 1000
