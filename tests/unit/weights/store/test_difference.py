"""A network as its difference from another."""

import pytest
import torch

from diffuscope.errors import WeightMismatchError
from diffuscope.weights.store import difference, files, headers


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    base = {"a.weight": torch.randn(50, 41, 3, 1, generator=generator), "a.bias": torch.randn(50, generator=generator)}
    own = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in base.items()}
    return own | {"new.weight": torch.randn(64, 64, generator=generator)}, base


def test_what_comes_back_is_near(pair, tmp_path):
    """A uniform quantiser of four levels leaves .1188 of a Gaussian's variance (Max 1960, table II)."""
    own, base = pair
    difference.write(path := tmp_path / "d.safetensors", own, base)
    header = headers.read_header(path)
    assert difference.is_difference(header)
    back = difference.restore(files.read(path), header.metadata, base)
    assert back.keys() == own.keys()
    error = (back["a.weight"] - own["a.weight"]).square().mean() / 0.05**2
    assert error == pytest.approx(0.1188, abs=0.01)
    torch.testing.assert_close(back["a.bias"], own["a.bias"], rtol=0, atol=1e-4)
    torch.testing.assert_close(back["new.weight"], own["new.weight"], rtol=0, atol=0.02)


def test_a_matrix_takes_two_bits_a_number(pair):
    packed, _ = difference.pack(*pair)
    stored = sum(packed[name].nbytes for name in ("a.weight::codes", "a.weight::step"))
    assert stored == (50 * 41 * 3 + 3) // 4 + 2 * 50


def test_no_difference_is_none(pair):
    base = pair[1]
    packed, metadata = difference.pack(base, base)
    assert not packed
    assert all(torch.equal(value, base[name]) for name, value in difference.restore(packed, metadata, base).items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed, _: packed.pop("a.weight::codes"),
        lambda packed, _: packed.pop("a.weight::step"),
        lambda packed, _: packed.update({"a.weight::codes": packed["a.weight::codes"][1:]}),
        lambda packed, _: packed.update({"a.weight::codes": packed["a.weight::codes"].long()}),
        lambda packed, _: packed.update({"a.weight::step": packed["a.weight::step"].long()}),
        lambda packed, _: packed.pop("a.bias"),
        lambda _, base: base.update({"a.bias": torch.zeros(51)}),
        lambda _, base: base.pop("a.weight"),
        lambda _, base: base.update({"a.weight": torch.zeros(50, 41, 4, 1)}),
    ],
)
def test_a_difference_of_another_network_is_refused(pair, damage):
    own, base = pair
    packed, metadata = difference.pack(own, base)
    damage(packed, base)
    with pytest.raises(WeightMismatchError):
        difference.restore(packed, metadata, base)
