"""Every public name is there when it is asked for."""

import pytest

import diffuscope as ds


def test_every_public_name_is_there() -> None:
    assert [name for name in ds.__all__ if getattr(ds, name, None) is None] == []
    assert set(ds.__all__) <= set(dir(ds))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'loud'.*load"):
        ds.loud  # noqa: B018


def test_samplers_as_functions_and_as_names() -> None:
    assert ds.samplers().keys() == ds.diffusion.samplers.SAMPLERS.keys()
    assert ds.samplers()["heun"].calls == 2
